"""Models as the command line names them: NAME=SOURCE, with other parts where they are asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from corgi_core.errors import CorgiError
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
            if self.prior or self.decoder:
                raise CorgiError(
                    f"{folder} is a diffusers pipeline, whose parts are not exchanged",
                    "leave out ,prior=… and ,decoder=…",
                )
            return DiffusersModel.load(folder)
        return CorgiPipeline.from_pretrained(
            self.source, home=home, prior=self.prior, decoder=self.decoder
        )
