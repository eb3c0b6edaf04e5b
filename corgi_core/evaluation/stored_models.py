"""Models in their folders: what is known of them without their weights, and how they are opened.

So an evaluation of many models holds one of them in memory, on the worker that computes with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import torch
from upath import UPath

from corgi_core.config import DECODER_SETTINGS, DecoderSettings, PriorSettings, settings_from
from corgi_core.decoders.registry import decoder_class, load_decoder
from corgi_core.errors import CorgiError
from corgi_core.io.files import read_json
from corgi_core.io.folders import copy_folder, published
from corgi_core.io.model_folder import CARD, digest_of_config, read_model_config
from corgi_core.out_of_memory import out_of_memory_explained
from corgi_core.prior.model import PriorModel

if TYPE_CHECKING:
    from corgi_core.decoders.decoder import Decoder

Model = TypeVar("Model")
NO_ROOM = "end what else uses the GPU's memory, or compute on another GPU or on the CPU"


@dataclass(frozen=True)
class StoredModel:
    """A model folder."""

    folder: Path | UPath

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        """The model in a folder; CorgiError where there is none of this kind."""
        model = cls(folder)
        model.config  # noqa: B018  read now, so that what is missing is missed now
        return model

    def save(self, folder: Path | UPath) -> None:
        """Copy the folder, whole or not at all."""
        copy_folder(self.folder, folder)

    @property
    def config(self) -> dict[str, Any]:
        """What the folder's configuration says."""
        raise NotImplementedError

    @cached_property
    def digest(self) -> str:
        """Names what the model samples: its weights, and settings such as guidance and steps."""
        return digest_of_config(self.config)

    @cached_property
    def card(self) -> dict[str, Any]:
        """Where the model comes from: its training, labels, data versions and metrics."""
        card: dict[str, Any] = read_json(published(self.folder) / CARD)
        return card

    def check_unchanged(self) -> None:
        """Raise CorgiError where the folder holds another model than when it was loaded."""
        found = type(self).load(self.folder).digest
        if found != self.digest:
            raise CorgiError(
                f"{self.folder} held the model {self.digest} and holds {found} now",
                "run it again: it will take the present model",
            )

    @property
    def encoders(self) -> dict[str, Any]:
        """The `spec` of the embeddings that the model was trained on."""
        return dict(self.config["encoders"])


class StoredPrior(StoredModel):
    """A prior's folder."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the folder's configuration says."""
        return read_model_config(self.folder, "prior")

    @cached_property
    def settings(self) -> PriorSettings:
        """The prior's settings."""
        return settings_from(PriorSettings, self.config["settings"])

    def open(self, device: torch.device | str, precision: str) -> PriorModel:
        """The prior, on a device; CorgiError where the folder holds another one by now."""
        prior = PriorModel.load(self.folder)
        self.check_unchanged()
        prior.precision = precision
        with out_of_memory_explained("moving a prior there", NO_ROOM):
            return prior.to(device)


class StoredDecoder(StoredModel):
    """The folder of a decoder of any kind."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the folder's configuration says."""
        return read_model_config(self.folder, "decoder")

    @property
    def kind(self) -> str:
        """The name that the decoder is registered under."""
        return str(self.config["decoder"])

    @property
    def input_kind(self) -> str:
        """Whose embedding it decodes for a caption: "image" or "text"."""
        return decoder_class(self.kind).input_kind

    @cached_property
    def settings(self) -> DecoderSettings:
        """The decoder's settings."""
        decoder_class(self.kind)  # refuses an unknown kind
        return settings_from(DECODER_SETTINGS[self.kind], self.config["settings"])

    def open(self, device: torch.device | str, precision: str) -> Decoder:
        """The decoder, on a device; CorgiError where the folder holds another one by now."""
        decoder = load_decoder(self.folder)
        self.check_unchanged()
        decoder.precision = precision
        with out_of_memory_explained(f"moving a {self.kind} decoder there", NO_ROOM):
            return decoder.to(device)


class Latest(Generic[Model]):
    """Opens models, and keeps the one that it opened last."""

    def __init__(self) -> None:
        self._digest = ""
        self._model: Model | None = None

    def __call__(self, digest: str, open_: Callable[[], Model]) -> Model:
        """The model of that digest; the one before is given up first, as memory may hold one."""
        if self._model is None or self._digest != digest:
            self._model = None
            self._model, self._digest = open_(), digest
        return self._model
