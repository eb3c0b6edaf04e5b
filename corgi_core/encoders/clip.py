"""An ensemble of CLIP encoders: an embedding is their outputs, concatenated.

Each encoder's output is scaled to norm √d_b, so that coordinates have a root mean square of 1 and
N(0, I) is the right baseline for a prior over them (DALL-E 2, section 2.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from upath import UPath

from corgi_core.devices import device_of, inference, tower_dtype
from corgi_core.encoders.clip_text import ENSEMBLE, ENSEMBLE_FORMAT, read_ensemble
from corgi_core.encoders.fitted_text_tower import CONFIG as FITTED
from corgi_core.encoders.fitted_text_tower import FittedTextTower
from corgi_core.encoders.open_clip_model import CONFIG, OpenClipModel
from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of, read_json, write_json
from corgi_core.io.folders import atomic_folder, local_folder
from corgi_core.io.model_folder import CARD

Encoder = OpenClipModel | FittedTextTower


class ClipEnsemble(nn.Module):
    """B frozen encoders of widths d_b, which make embeddings of width d = Σ d_b.

    They are open_clip's, or, for precomputed image embeddings, text towers fitted to them. `card`
    says how trained ones were trained, `precision` in which precision they compute. `space` names
    the precomputed embeddings that open_clip's encoders are used with.
    """

    precision: str = "auto"

    def __init__(
        self,
        encoders: Sequence[Encoder],
        card: Mapping[str, Any] | None = None,
        space: str | None = None,
    ) -> None:
        super().__init__()
        self.card = dict(card or {})
        self._given_space = space
        if not encoders:
            raise CorgiError("an ensemble needs at least one CLIP encoder", "name one")
        self.encoders = nn.ModuleList(encoders)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the encoders compute."""
        return device_of(self)

    @property
    def names(self) -> list[str]:
        """The encoders' names, in the order of the embedding's parts."""
        return [encoder.name for encoder in self._models]

    @property
    def encoder_dims(self) -> tuple[int, ...]:
        """The encoders' widths d_b."""
        return tuple(encoder.width for encoder in self._models)

    @property
    def width(self) -> int:
        """The width d of an embedding."""
        return sum(self.encoder_dims)

    @property
    def image_size(self) -> int:
        """The largest side that an encoder of the ensemble reads, in pixels."""
        return max(encoder.image_size for encoder in self._models)

    @cached_property
    def digest(self) -> str:
        """Names the encoders' content, in their order."""
        return digest_of([encoder.digest for encoder in self._models])

    @property
    def space(self) -> str:
        """Names the space of the embeddings: towers fitted to one are not the encoders it is of."""
        if self._given_space is not None:
            return self._given_space
        spaces = {encoder.space for encoder in self._models if isinstance(encoder, FittedTextTower)}
        return spaces.pop() if spaces else self.digest

    @property
    def _models(self) -> list[Encoder]:
        return [encoder for encoder in self.encoders if isinstance(encoder, Encoder)]

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Square images [n, 3, s, s], uint8 in 0…255 or float in [0, 1] → float32 [n, d]."""
        return self.encode_images_with_grad(pixels)

    def encode_images_with_grad(self, pixels: Tensor) -> Tensor:
        """As `encode_images`, with gradients to the images; the encoders themselves stay frozen."""
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3]:
            raise CorgiError(
                f"images of shape {tuple(pixels.shape)} are not square RGB [n, 3, s, s]",
                "pad them to squares first, as corgi_core.data.pixels does",
            )
        pixels = pixels.to(self.device)
        pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels.float()
        with inference(self.device, self.precision):
            dtype = tower_dtype(self.device, self.precision)
            outputs = [encoder.encode_images(pixels, dtype) for encoder in self._models]
        return scale_per_encoder(torch.cat(outputs, dim=1), self.encoder_dims)

    @torch.no_grad()
    def encode_texts(self, captions: Sequence[str]) -> Tensor:
        """Captions [n] → float32 [n, d]."""
        with inference(self.device, self.precision):
            outputs = [encoder.encode_texts(captions) for encoder in self._models]
        return scale_per_encoder(torch.cat(outputs, dim=1), self.encoder_dims)

    def save(self, folder: Path | UPath) -> None:
        """Write the ensemble, whole or not at all: one open_clip folder for each encoder."""
        with atomic_folder(folder) as temporary, local_folder(temporary, write=True) as local:
            for number, encoder in enumerate(self._models):
                path = local / str(number)
                path.mkdir()
                encoder.save(path)
            write_json(
                local / ENSEMBLE,
                {
                    "format": ENSEMBLE_FORMAT,
                    "names": self.names,
                    "encoder_dims": self.encoder_dims,
                    "digest": self.digest,
                    **({} if self._given_space is None else {"space": self._given_space}),
                },
            )
            write_json(local / CARD, self.card)

    @classmethod
    def load(cls, source: Path | UPath | Sequence[str]) -> Self:
        """Load what `save` wrote to a folder, or an ensemble by its encoders' names.

        A name is a built-in with its weights ("ViT-B-16/openai"), a hub id ("hf-hub:…"), or a
        local folder: of one encoder, with `open_clip_config.json` and `model.safetensors`, or of a
        saved ensemble.

        Raises CorgiError where an encoder is unknown, missing or damaged.
        """
        if isinstance(source, (Path, UPath)):
            return cls._load_folder(source)
        return cls([encoder for name in source for encoder in cls._named(name)])

    @classmethod
    def _named(cls, name: str) -> list[Encoder]:
        folder = Path(name)
        if (folder / ENSEMBLE).exists():
            return cls._load_folder(folder)._models
        if (folder / CONFIG).exists() or folder.is_absolute() or name.startswith("."):
            return [OpenClipModel.load(folder, folder.name)]
        return [OpenClipModel.named(name)]

    @classmethod
    def _load_folder(cls, folder: Path | UPath) -> Self:
        saved = read_ensemble(folder)
        with local_folder(folder) as local:
            ensemble = cls(
                [_saved(local / str(i), name) for i, name in enumerate(saved["names"])],
                read_json(local / CARD),
                saved.get("space"),
            )
        if (
            ensemble.digest != saved["digest"]
            or list(ensemble.encoder_dims) != saved["encoder_dims"]
        ):
            raise CorgiError(
                f"the encoders in {folder} are not those that {ENSEMBLE} names",
                "materialise clip_encoder again",
            )
        return ensemble


def _saved(folder: Path, name: str) -> Encoder:
    fitted = (folder / FITTED).exists()
    return FittedTextTower.load(folder, name) if fitted else OpenClipModel.load(folder, name)
