"""The linear prior: a caption's embedding as an affine function of its text features.

What a diffusion adds to a prior is what it scores above this. The features of a caption y are
φ(y) = [f_txt(y), the mean of its text tokens], or f_txt(y) alone where tokens are not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from upath import UPath

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.ragged import RaggedArray
from corgi_core.encoders.caption_tokens import CaptionTokens
from corgi_core.errors import CorgiError
from corgi_core.io.model_folder import (
    digest_of_model,
    read_model_folder,
    write_model_folder,
)

KIND = "linear-prior"
CACHED = "tokens"  # the array's name where tokens are stored
ROWS_AT_ONCE = 1024  # captions, whose tokens are in memory as float32


def caption_features(
    text: NDArray[np.floating[Any]], tokens: RaggedArray | None
) -> NDArray[np.float32]:
    """φ of n captions.

    Args:
        text: Their CLIP text embeddings [n, d].
        tokens: Their text tokens, vectors of width w; None to leave them out. A caption without
            tokens has a mean of zero.

    Returns:
        The features [n, p], with p = d + w, or d.
    """
    wide = np.asarray(text, dtype=np.float32)
    if tokens is None:
        return wide
    means = np.zeros((len(wide), tokens.values.shape[1]), np.float32)
    there = np.flatnonzero(tokens.lengths)
    if len(there):
        sums = np.add.reduceat(tokens.values.astype(np.float32), tokens.offsets[there], axis=0)
        means[there] = sums / tokens.lengths[there, None]
    return np.concatenate([wide, means], axis=1)


def stored_tokens(texts: ArrayStore) -> str | None:
    """The name of the ragged array with the tokens; None where tokens are made online."""
    return CACHED if CaptionTokens(texts).array == CACHED else None


@dataclass(frozen=True, eq=False)
class LinearPrior:
    """ẑ₀ = Aᵀ φ(y) + b.

    Attributes:
        weight: A [p, d].
        bias: b [d].
        encoder_dims: Widths of the CLIP encoders, which sum to d.
        card: How it was fitted, and to what.

    Raises:
        CorgiError: the shapes do not fit.
    """

    weight: Tensor
    bias: Tensor
    encoder_dims: tuple[int, ...]
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        width = sum(self.encoder_dims)
        if self.bias.shape != (width,) or self.weight.shape[1:] != (width,):
            raise CorgiError(
                f"a linear prior of {tuple(self.weight.shape)} and {tuple(self.bias.shape)} does "
                f"not fit embeddings of width {width}",
                "fit it again on these embeddings",
            )

    @property
    def reads_tokens(self) -> bool:
        """Whether its features contain the mean of the text tokens."""
        return len(self.weight) > sum(self.encoder_dims)

    @cached_property
    def digest(self) -> str:
        """Names the weights and the encoders."""
        return digest_of_model(KIND, self._config, self._tensors)

    def predict(self, features: Tensor) -> Tensor:
        """Features [n, p] → embeddings [n, d], on the device of `features`."""
        return features @ self.weight.to(features.device) + self.bias.to(features.device)

    def predict_captions(self, text: Tensor, tokens: RaggedArray | None) -> Tensor:
        """Text embeddings [n, d] and tokens, as `caption_features` has them → [n, d], on the CPU.

        Raises CorgiError where the tokens are missing, or of another width.
        """
        features = caption_features(text.numpy(), tokens if self.reads_tokens else None)
        if features.shape[1] != len(self.weight):
            raise CorgiError(
                f"a linear prior of {len(self.weight)} features was given {features.shape[1]}",
                "fit it again on captions of the present text encoder",
            )
        return self.predict(torch.from_numpy(features))

    def save(self, folder: Path | UPath) -> None:
        """Write it as a model folder."""
        write_model_folder(folder, KIND, self._config, self._tensors, self.card)

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        """Read a linear prior's model folder."""
        saved = read_model_folder(folder, KIND)
        weight, bias = saved.tensors["weight"], saved.tensors["bias"]
        return cls(weight, bias, tuple(saved.config["encoder_dims"]), saved.card)

    @property
    def _config(self) -> dict[str, Any]:
        return {"encoder_dims": list(self.encoder_dims)}

    @property
    def _tensors(self) -> dict[str, Tensor]:
        return {"weight": self.weight, "bias": self.bias}
