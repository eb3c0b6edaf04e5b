"""Models as the command line names them: NAME=SOURCE, with other parts where they are asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from corgi_core.errors import CorgiError
from corgi_core.io.model_index import MODELS_FILE, ModelIndex
from corgi_core.suites.folder import check_model_name

if TYPE_CHECKING:
    from corgi_core.pipeline import CorgiPipeline
    from corgi_core.suites.diffusers_model import DiffusersModel

PARTS = ("prior", "decoder")


@dataclass(frozen=True)
class ModelSource:
    """Where a model is.

    Attributes:
        name: What to call it; by default the source's last name, "@" replaced by "-".
        source: What `CorgiPipeline.from_pretrained` takes, or the folder of a diffusers pipeline.
        prior: Another prior, an alias or a folder.
        decoder: Another decoder, likewise.
    """

    name: str
    source: str
    prior: str | None = None
    decoder: str | None = None

    @classmethod
    def of(cls, text: str) -> Self:
        """The model of "emoji@gan", "gan=emoji@gan" or "k1=emoji,prior=./priors/k1".

        Raises:
            CorgiError: If the text names no source, or a part that there is not.

        Examples:
            >>> ModelSource.of("emoji@gan")
            ModelSource(name='emoji-gan', source='emoji@gan', prior=None, decoder=None)
            >>> ModelSource.of("k1=emoji,prior=./priors/k1")
            ModelSource(name='k1', source='emoji', prior='./priors/k1', decoder=None)
        """
        first, *more = text.split(",")
        name, _, source = first.rpartition("=")
        parts = dict(each.partition("=")[::2] for each in more)
        if not source or not set(parts) <= set(PARTS) or not all(parts.values()):
            raise CorgiError(
                f"{text!r} names no model",
                "write SOURCE or NAME=SOURCE, and ,prior=FOLDER or ,decoder=FOLDER after it",
            )
        name = name or re.sub(r"[^A-Za-z0-9._-]", "-", Path(source).name)
        check_model_name(name)
        return cls(name, source, parts.get("prior"), parts.get("decoder"))

    def load(self, home: Path) -> CorgiPipeline | DiffusersModel:
        """The model; workspaces are looked for in `home`.

        Raises:
            CorgiError: If there is none, or another part is asked for of a diffusers pipeline.
        """
        from corgi_core.pipeline import CorgiPipeline
        from corgi_core.suites.diffusers_model import DiffusersModel

        folder = Path(self.source).expanduser()
        if DiffusersModel.is_in(folder):
            self._check_whole(folder)
            return DiffusersModel.load(folder)
        return CorgiPipeline.from_pretrained(
            self.source, home=home, prior=self.prior, decoder=self.decoder
        )

    def check(self, home: Path) -> None:
        """Look whether the model is there, and load nothing.

        Raises:
            CorgiError: If there is no such folder, workspace or alias, or another part is asked for
                of a diffusers pipeline.
        """
        from corgi_core.pipeline import PIPELINE
        from corgi_core.suites.diffusers_model import DiffusersModel

        folder = Path(self.source).expanduser()
        for part in (self.prior, self.decoder):
            if part and "/" in part and not Path(part).is_dir():
                raise CorgiError(f"there is no folder {part}", "give the folder of a model")
        if DiffusersModel.is_in(folder):
            self._check_whole(folder)
        elif self.source.startswith((".", "/", "~")):
            if not folder.is_dir():
                raise CorgiError(f"there is no folder {folder}", "give one, or a workspace's name")
        elif not (folder / PIPELINE).exists():
            workspace, _, alias = self.source.partition("@")
            index = ModelIndex.load(home / workspace / MODELS_FILE)
            if alias and not any(alias in named for named in index.models.values()):
                index.folder("decoder", alias)  # says which there are

    def _check_whole(self, folder: Path) -> None:
        if self.prior or self.decoder:
            raise CorgiError(
                f"{folder} is a diffusers pipeline, whose parts are not exchanged",
                "leave out ,prior=… and ,decoder=…",
            )


def check_sources(sources: Sequence[ModelSource], home: Path) -> None:
    """Look whether all models are there, each under a name of its own, before one is loaded.

    Raises:
        CorgiError: If two have one name, or as `ModelSource.check`.
    """
    names = [source.name for source in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CorgiError(
            f"several models are called {', '.join(twice)}",
            "give each a name of its own: --model NAME=SOURCE",
        )
    for source in sources:
        source.check(home)
