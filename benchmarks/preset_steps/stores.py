"""Data of a preset's real shapes and of no meaning: a few captions, images and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corgi_core.data.arrays import Arrays, ArrayStore, compute_missing
from corgi_core.data.ragged import RaggedArray
from corgi_core.gaussians.bank import GaussianBank

SAMPLES = 4  # images, each with a caption
CLIP = "random"  # the encoder that the embeddings are said to come from


@dataclass(frozen=True)
class Shard:
    """As much of a dataset as arrays need: one shard."""

    shards: tuple[str, ...] = ("00000",)

    def shard_digest(self, shard: str) -> str:
        return shard

    def images_in(self, shard: str) -> int:
        return SAMPLES


@dataclass(frozen=True)
class Stores:
    """Arrays under `folder`, written when they are first asked for.

    Attributes:
        folder: An empty folder.
        encoder_dims: d_b of the CLIP encoders.
    """

    folder: Path
    encoder_dims: Sequence[int]

    @property
    def keys(self) -> np.ndarray:
        """The images' keys, of str."""
        return np.array([f"{number:05d}" for number in range(SAMPLES)])

    def pixels(self, size: int) -> ArrayStore:
        """Noise as images of size × size."""
        pixels = _random().integers(0, 256, (SAMPLES, 3, size, size), dtype=np.uint8)
        return self._store(f"pixels-{size}", {"size": size}, {"pixels": pixels})

    def embeddings(self) -> ArrayStore:
        """Normal embeddings, which the caption embeddings equal."""
        return self._store("embeddings", self._spec, {"image": self._vectors})

    def texts(self, width: int, tokens: int) -> ArrayStore:
        """A caption an image, each of `tokens` tokens of that width."""
        vectors = _random().standard_normal((SAMPLES * tokens, width)).astype(np.float16)
        arrays = {
            "tokens": RaggedArray.of_lengths(vectors, np.full(SAMPLES, tokens)),
            "text": self._vectors,
        }
        about = {"text_width": width, "text_tokens": tokens, "text_encoder": "random"}
        return self._store("texts", {**self._spec, **about}, arrays)

    def bank(self, gaussians: int) -> GaussianBank:
        """Gaussians with random means."""
        means = torch.from_numpy(_random().standard_normal((gaussians, self._width)))
        ones = torch.ones(gaussians, dtype=torch.long)
        return GaussianBank(means, torch.ones_like(means), ones, self.encoder_dims, kappa=1.0)

    @property
    def _width(self) -> int:
        return sum(self.encoder_dims)

    @property
    def _vectors(self) -> np.ndarray:
        return _random().standard_normal((SAMPLES, self._width)).astype(np.float16)

    @property
    def _spec(self) -> dict[str, Any]:
        dims = list(self.encoder_dims)
        return {
            "encoder": CLIP, "names": [CLIP] * len(dims), "encoder_dims": dims,
            "width": self._width,
        }  # fmt: skip

    def _store(self, name: str, spec: dict[str, Any], arrays: Arrays) -> ArrayStore:
        whole = {"keys": self.keys, **arrays}
        return compute_missing(self.folder / name, Shard(), spec, lambda _: whole, name)  # type: ignore[arg-type]


def _random() -> np.random.Generator:
    return np.random.default_rng(0)
