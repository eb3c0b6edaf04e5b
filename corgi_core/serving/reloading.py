"""Hot reload: the file that names the champions is watched, and new ones are loaded beside the old.

The old models answer until the new ones have made a picture; models that cannot leave the old ones
where they are, and the failure is reported until the next change.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from corgi_core.errors import CorgiError
from corgi_core.serving.engine import Engine
from corgi_core.serving.model import ServedModel

log = logging.getLogger(__name__)
INTERVAL = 1.0  # seconds


class ModelWatch:
    """Loads models, and again whenever a file has changed.

    Args:
        path: The file that names the models; it may be missing.
        load: Loads them.

    Attributes:
        model: The models that were loaded last.
        failure: Why the newest models cannot be loaded; None where they are.

    Raises:
        CorgiError: If the first models cannot be loaded.
    """

    def __init__(self, path: Path, load: Callable[[], ServedModel]) -> None:
        self._path, self._load = path, load
        self._content = self._read()
        self.model = load().warmed()
        self.failure: str | None = None
        self._ended = threading.Event()

    def follow(
        self,
        engine: Engine,
        on_reload: Callable[[str], None] = lambda outcome: None,
        interval: float = INTERVAL,
    ) -> None:
        """Look at the file until `stop`, in a thread; `on_reload` gets "loaded" or "failed"."""

        def look() -> None:
            while not self._ended.wait(interval):
                if self.has_changed():
                    on_reload("loaded" if self.reload(engine) else "failed")

        threading.Thread(target=look, name="watching models", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()

    def has_changed(self) -> bool:
        """Whether the file has changed since it was looked at."""
        before, self._content = self._content, self._read()
        return self._content != before

    def reload(self, engine: Engine) -> bool:
        """Load the models and have them answer; False where they cannot, and the old ones do."""
        try:
            model = self._load()
            if model.is_released and not self.model.is_released:
                raise CorgiError(
                    "the workspace has no champions any more",
                    "promote some, or start the server again to have the released model answer",
                )
            model.warmed()
        except Exception as error:
            self.failure = str(error)
            log.log(
                logging.WARNING, "the new models are not served, the old ones are: %s", error,
                exc_info=not isinstance(error, CorgiError),
            )  # fmt: skip
            return False
        self.failure = None
        self.model = model  # also of the same id: its other decoders may be new
        engine.replace(model)
        log.warning("%s (%s) answer from now on", model.name, model.id)
        return True

    def _read(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            return None
