"""The linear prior by ridge regression (Hoerl and Kennard, 1970), from one pass over the captions.

All that is needed of the captions are sums: ΦᵀΦ, ΦᵀZ and the like, of the training and of the
validation captions. Parts of some shards are summed anywhere, and added in the shards' order. The
penalty is the one with the least squared error on the validation captions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.keys import SplitKeys
from corgi_core.data.splits import TRAIN, VALIDATION
from corgi_core.errors import CorgiError
from corgi_core.mapping import Map, map_here
from corgi_core.prior.linear import (
    ROWS_AT_ONCE,
    LinearPrior,
    caption_features,
    stored_tokens,
)
from corgi_core.prior.task import check_encoders

FEWEST_IN_A_PART = 16  # shards whose sums are taken at once
PARTS = 64  # at most: their sums are sent, a hundred megabytes each
PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 3))
"""λ/n, where the features of an encoder are scaled to a mean variance of 1."""

Matrix = NDArray[np.float64]


@dataclass
class RidgeSums:
    """Sums over n captions with features φ [p] and image embeddings z [d], in float64."""

    count: int  # n
    features: Matrix  # Σφ [p]
    embeddings: Matrix  # Σz [d]
    gram: Matrix  # Σφφᵀ [p, p]
    cross: Matrix  # Σφzᵀ [p, d]
    squares: float  # Σ‖z‖²

    @classmethod
    def zero(cls, p: int, d: int) -> RidgeSums:
        """The sums over no caption."""
        return cls(0, np.zeros(p), np.zeros(d), np.zeros((p, p)), np.zeros((p, d)), 0.0)

    @classmethod
    def of(cls, features: NDArray[np.float32], embeddings: NDArray[np.float32]) -> RidgeSums:
        """The sums over features [n, p] and embeddings [n, d]."""
        x, z = features.astype(np.float64), embeddings.astype(np.float64)
        squares = float(np.square(z).sum())
        return cls(len(x), x.sum(axis=0), z.sum(axis=0), x.T @ x, x.T @ z, squares)

    def add(self, other: RidgeSums) -> None:
        """Add the sums over other captions, in place."""
        self.count += other.count
        self.features += other.features
        self.embeddings += other.embeddings
        self.gram += other.gram
        self.cross += other.cross
        self.squares += other.squares

    def about(
        self, features: Matrix, embeddings: Matrix, scale: Matrix
    ) -> tuple[Matrix, Matrix, float]:
        """Gram, cross and squares of s(φ − φ̄) and z − z̄, for any φ̄ [p], z̄ [d] and s [p]."""
        n, sums = self.count, np.outer(self.features, features)
        gram = self.gram - sums - sums.T + n * np.outer(features, features)
        cross = (
            self.cross - np.outer(self.features, embeddings)
            - np.outer(features, self.embeddings) + n * np.outer(features, embeddings)
        )  # fmt: skip
        squares = self.squares - 2 * embeddings @ self.embeddings + n * embeddings @ embeddings
        return gram * np.outer(scale, scale), cross * scale[:, None], float(squares)


def ridge_prior(
    dataset: Dataset, images: ArrayStore, texts: ArrayStore, mapped: Map = map_here
) -> LinearPrior:
    """The ridge regression of image embeddings on the features of all training captions.

    Args:
        dataset: Its training captions are fitted to, its validation captions choose the penalty.
        images: The image embeddings.
        texts: The captions' embeddings, and tokens where they are stored.
        mapped: Where the parts are summed; the result is the same.

    Raises:
        CorgiError: images and captions are of different encoders, or a split has no captions.
    """
    check_encoders(images, texts)
    check_captions(dataset)
    size = max(FEWEST_IN_A_PART, -(-len(texts.shards) // PARTS))
    shards = [texts.shards[first : first + size] for first in range(0, len(texts.shards), size)]
    common = _Sources(dataset, images, texts, stored_tokens(texts))
    train, validation = common.no_sums(), common.no_sums()
    with closing(mapped(_sums_of, common, shards, "fitting the linear prior")) as parts:
        for of_train, of_validation in parts:
            train.add(of_train)
            validation.add(of_validation)
    return fitted(train, validation, images.spec["encoder_dims"])


def check_captions(dataset: Dataset) -> None:
    """Raise CorgiError where no training or no validation image has a caption; reads no manifest.

    Args:
        dataset: What the models learned from.
    """
    counts = dataset.counts
    for split, remedy in (
        (TRAIN, "ingest captions of the training images"),
        (VALIDATION, "ingest more captioned images, or raise data.validation_fraction"),
    ):
        if not counts[counts["split"] == split]["captioned"].sum():
            raise CorgiError(
                f"no {split} image has a caption, so there is no linear prior to compare with",
                f"in the data that the models learned from, {remedy}",
            )


def fitted(
    train: RidgeSums,
    validation: RidgeSums,
    encoder_dims: Sequence[int],
    penalties: Sequence[float] = PENALTIES,
) -> LinearPrior:
    """The ridge regression with the best of the penalties on the validation captions.

    With UΛUᵀ the scaled Gram matrix of the training captions and B = UᵀC of its cross sums C, the
    weights are U diag(w) B with w = 1/(Λ + λ). The validation's squared error is then a quadratic
    form of w, so that each further penalty costs p² operations.
    """
    centre, mean = train.features / train.count, train.embeddings / train.count
    scale = _scale(train, centre, sum(encoder_dims))
    gram, cross, _ = train.about(centre, mean, scale)
    values, vectors = np.linalg.eigh(gram)
    values = values.clip(min=0)
    b = vectors.T @ cross
    held_gram, held_cross, squares = validation.about(centre, mean, scale)
    linear = (b * (vectors.T @ held_cross)).sum(axis=1)
    quadratic = (vectors.T @ held_gram @ vectors) * (b @ b.T)

    def error(penalty: float) -> float:
        w = 1 / (values + penalty * train.count)
        return float(squares - 2 * w @ linear + w @ quadratic @ w)

    best = min(penalties, key=error)
    weight = scale[:, None] * (vectors @ (b / (values + best * train.count)[:, None]))
    card = {
        "fitted_by": "ridge regression", "captions": train.count, "penalty": best,
        "validation_captions": validation.count,
        "validation_error": error(best) / (validation.count * len(mean)),
    }  # fmt: skip
    return LinearPrior(
        torch.from_numpy(weight).float(),
        torch.from_numpy(mean - centre @ weight).float(),
        tuple(encoder_dims),
        card,
    )


def _scale(sums: RidgeSums, centre: Matrix, text_width: int) -> Matrix:
    """[p]: scales the text embedding's coordinates to a mean variance of 1, and the tokens'."""
    variance = (np.diag(sums.gram) / sums.count - np.square(centre)).clip(min=0)
    scale = np.ones(len(variance))
    for part in (slice(0, text_width), slice(text_width, None)):
        if len(variance[part]) and (mean := variance[part].mean()) > 0:
            scale[part] = mean**-0.5
    return scale


@dataclass(frozen=True)
class _Sources:
    """What every part's sums are read from."""

    dataset: Dataset
    images: ArrayStore
    texts: ArrayStore
    tokens: str | None

    def read(
        self, shard: str, split: str
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Features and image embeddings of a split's captions in a shard, some at a time."""
        keys = self.texts.shard_keys(shard)
        rows = np.flatnonzero(SplitKeys(self.dataset, split).among(shard, keys))
        if not len(rows):
            return
        text, image = self.texts.mapped(shard, "text"), self.images.mapped(shard, "image")
        tokens = self.texts.mapped_ragged(shard, self.tokens) if self.tokens else None
        own = self.images.first_rows(shard, keys[rows])
        for first in range(0, len(rows), ROWS_AT_ONCE):
            some = slice(first, first + ROWS_AT_ONCE)
            taken = None if tokens is None else tokens.take(rows[some])
            features = caption_features(text[rows[some]], taken)
            yield features, np.asarray(image[own[some]], np.float32)

    def no_sums(self) -> RidgeSums:
        """Sums to add to."""
        width = sum(self.images.spec["encoder_dims"])
        p = width
        if self.tokens:
            p += self.texts.mapped_ragged(self.texts.shards[0], self.tokens).values.shape[1]
        return RidgeSums.zero(p, width)

    def sums(self, shards: Sequence[str], split: str) -> RidgeSums:
        """The sums over a split's captions in some shards."""
        total = self.no_sums()
        for shard in shards:
            for features, embeddings in self.read(shard, split):
                total.add(RidgeSums.of(features, embeddings))
        return total


def _sums_of(sources: _Sources, shards: Sequence[str]) -> tuple[RidgeSums, RidgeSums]:
    """Of the training and of the validation captions of some shards."""
    return sources.sums(shards, TRAIN), sources.sums(shards, VALIDATION)
