"""The linear prior by ridge regression (Hoerl and Kennard, 1970), from one pass over the captions.

All that is needed of the captions are sums: ΦᵀΦ, ΦᵀZ and the like, of the training and of the
validation captions. Parts of some shards are summed anywhere, and added in the shards' order. The
penalty is the one with the least squared error on the validation captions. Sums by fold give the
same regression without a fold's own images, from the same pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.keys import KeySet, SplitKeys, validation_keys
from corgi_core.data.splits import TRAIN, VALIDATION
from corgi_core.devices import one_thread_each
from corgi_core.errors import CorgiError
from corgi_core.gaussians.caption_conditioned import folds_of
from corgi_core.mapping import Map, map_here
from corgi_core.prior.linear import (
    ROWS_AT_ONCE,
    LinearPrior,
    caption_features,
    stored_tokens,
)
from corgi_core.prior.task import check_encoders

FEWEST_IN_A_PART = 16  # shards whose sums are taken at once
PARTS = 64  # at most, over all folds: their sums are sent, a hundred megabytes a fold
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
    products: Matrix  # Σzzᵀ [d, d]

    @classmethod
    def zero(cls, p: int, d: int) -> RidgeSums:
        """The sums over no caption."""
        matrices = np.zeros((p, p)), np.zeros((p, d)), np.zeros((d, d))
        return cls(0, np.zeros(p), np.zeros(d), *matrices)

    @classmethod
    def of(
        cls, features: NDArray[np.floating[Any]], embeddings: NDArray[np.floating[Any]]
    ) -> RidgeSums:
        """The sums over features [n, p] and embeddings [n, d]."""
        x, z = features.astype(np.float64), embeddings.astype(np.float64)
        return cls(len(x), x.sum(axis=0), z.sum(axis=0), x.T @ x, x.T @ z, z.T @ z)

    def add(self, other: RidgeSums) -> None:
        """Add the sums over other captions, in place."""
        self.count += other.count
        self.features += other.features
        self.embeddings += other.embeddings
        self.gram += other.gram
        self.cross += other.cross
        self.products += other.products

    def without(self, other: RidgeSums) -> RidgeSums:
        """The sums over these captions but for the other ones, which are among them."""
        return RidgeSums(
            self.count - other.count, self.features - other.features,
            self.embeddings - other.embeddings, self.gram - other.gram, self.cross - other.cross,
            self.products - other.products,
        )  # fmt: skip

    def about(
        self, features: Matrix, embeddings: Matrix, scale: Matrix
    ) -> tuple[Matrix, Matrix, Matrix]:
        """Gram, cross and products of s(φ − φ̄) and z − z̄, for any φ̄ [p], z̄ [d] and s [p]."""
        n, sums = self.count, np.outer(self.features, features)
        gram = self.gram - sums - sums.T + n * np.outer(features, features)
        cross = (
            self.cross - np.outer(self.features, embeddings)
            - np.outer(features, self.embeddings) + n * np.outer(features, embeddings)
        )  # fmt: skip
        sums = np.outer(self.embeddings, embeddings)
        products = self.products - sums - sums.T + n * np.outer(embeddings, embeddings)
        return gram * np.outer(scale, scale), cross * scale[:, None], products

    def errors(self, prior: LinearPrior) -> Matrix:
        """Σεεᵀ [d, d] of a linear prior's errors ε = z − Aᵀφ − b."""
        weight, bias = prior.weight.double().numpy(), prior.bias.double().numpy()
        p = len(weight)
        gram, cross, products = self.about(np.zeros(p), bias, np.ones(p))
        explained = weight.T @ cross
        errors: Matrix = products - explained - explained.T + weight.T @ gram @ weight
        return errors


def ridge_prior(
    dataset: Dataset,
    images: ArrayStore,
    texts: ArrayStore,
    mapped: Map = map_here,
    left_out: Collection[str] = (),
) -> LinearPrior:
    """The ridge regression of image embeddings on the features of all training captions.

    Args:
        dataset: Its training captions are fitted to, its validation captions choose the penalty.
        images: The image embeddings.
        texts: The captions' embeddings, and tokens where they are stored.
        mapped: Where the parts are summed; the result is the same.
        left_out: Keys of held-out images that do not count.

    Raises:
        CorgiError: images and captions are of different encoders, a split has no captions, or all
            validation images with captions are left out.
    """
    check_captions(dataset)
    train, validation = SplitKeys(dataset, TRAIN), validation_keys(dataset, left_out)
    sums = caption_sums(train, validation, images, texts, mapped)
    if not sums.validation.count:
        raise CorgiError(
            "all validation images with captions have near twins in other splits, so none chooses "
            "the penalty of the linear prior",
            "ingest more captioned images, or raise data.validation_fraction or data.twin_cosine",
        )
    return fitted(sums.train, sums.validation, images.spec["encoder_dims"])


@dataclass
class CaptionSums:
    """Sums over captions: over the training captions fold by fold, and over the validation's.

    `images` is the number of training images that have these captions.
    """

    folds: list[RidgeSums]
    validation: RidgeSums
    images: int = 0

    @property
    def train(self) -> RidgeSums:
        """The sums over all training captions."""
        total = RidgeSums.zero(*self.validation.cross.shape)
        for fold in self.folds:
            total.add(fold)
        return total

    def add(self, other: CaptionSums) -> None:
        """Add the sums over other captions, in place."""
        for fold, more in zip(self.folds, other.folds, strict=True):
            fold.add(more)
        self.validation.add(other.validation)
        self.images += other.images


def caption_sums(
    train: KeySet,
    validation: KeySet,
    images: ArrayStore,
    texts: ArrayStore,
    mapped: Map = map_here,
    folds: int = 1,
) -> CaptionSums:
    """The sums from which ridge regressions follow, in one pass over the captions.

    Args:
        train: The images whose captions are fitted to.
        validation: Those whose captions choose the penalty.
        images: The image embeddings.
        texts: The captions' embeddings, and tokens where they are stored.
        mapped: Where the parts are summed; the result is the same.
        folds: In how many the training captions are summed; `folds_of` says in which.

    Raises:
        CorgiError: images and captions are of different encoders.
    """
    check_encoders(images, texts)
    size = max(FEWEST_IN_A_PART, -(-len(texts.shards) // max(1, PARTS // folds)))
    shards = [texts.shards[first : first + size] for first in range(0, len(texts.shards), size)]
    common = _Sources(train, validation, images, texts, stored_tokens(texts), folds)
    total = common.no_sums()
    with closing(mapped(_sums_of, common, shards, "fitting the linear prior")) as parts:
        for part in parts:
            total.add(part)
    return total


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
    held_gram, held_cross, products = validation.about(centre, mean, scale)
    squares = np.trace(products)
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
    return _linear_prior(weight, mean - centre @ weight, encoder_dims, card)


def fitted_at(train: RidgeSums, penalty: float, encoder_dims: Sequence[int]) -> LinearPrior:
    """The ridge regression at a penalty: `fitted` without the choice, in a third of the time."""
    centre, mean = train.features / train.count, train.embeddings / train.count
    scale = _scale(train, centre, sum(encoder_dims))
    gram, cross, _ = train.about(centre, mean, scale)
    gram[np.diag_indices_from(gram)] += penalty * train.count
    weight = scale[:, None] * np.linalg.solve(gram, cross)
    card = {"fitted_by": "ridge regression", "captions": train.count, "penalty": penalty}
    return _linear_prior(weight, mean - centre @ weight, encoder_dims, card)


def _linear_prior(
    weight: Matrix, bias: Matrix, encoder_dims: Sequence[int], card: Mapping[str, Any]
) -> LinearPrior:
    tensors = torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
    return LinearPrior(*tensors, tuple(encoder_dims), card)


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

    train: KeySet
    validation: KeySet
    images: ArrayStore
    texts: ArrayStore
    tokens: str | None
    folds: int

    def read(
        self, shard: str, chosen: KeySet
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.floating[Any]]]]:
        """Features and stored image embeddings of chosen captions in a shard, some at a time."""
        keys = self.texts.shard_keys(shard)
        rows = np.flatnonzero(chosen.among(shard, keys))
        if not len(rows):
            return
        text, image = self.texts.mapped(shard, "text"), self.images.mapped(shard, "image")
        tokens = self.texts.mapped_ragged(shard, self.tokens) if self.tokens else None
        own = self.images.first_rows(shard, keys[rows])
        for first in range(0, len(rows), ROWS_AT_ONCE):
            some = slice(first, first + ROWS_AT_ONCE)
            taken = None if tokens is None else tokens.take(rows[some])
            yield caption_features(text[rows[some]], taken), np.asarray(image[own[some]])

    def no_sums(self) -> CaptionSums:
        """Sums to add to."""
        width = sum(self.images.spec["encoder_dims"])
        p = width
        if self.tokens:
            p += self.texts.mapped_ragged(self.texts.shards[0], self.tokens).values.shape[1]
        folds = [RidgeSums.zero(p, width) for _ in range(self.folds)]
        return CaptionSums(folds, RidgeSums.zero(p, width))

    def add_shard(self, sums: CaptionSums, shard: str) -> None:
        """Add a shard's captions."""
        keys = self.texts.shard_keys(shard)
        sums.images += len(np.unique(keys[self.train.among(shard, keys)]))
        for features, embeddings in self.read(shard, self.validation):
            sums.validation.add(RidgeSums.of(features, embeddings))
        for features, embeddings in self.read(shard, self.train):
            fold = folds_of(torch.from_numpy(embeddings), self.folds).numpy()
            for number in np.unique(fold):
                rows = fold == number
                sums.folds[number].add(RidgeSums.of(features[rows], embeddings[rows]))


def _sums_of(sources: _Sources, shards: Sequence[str]) -> CaptionSums:
    """Of the captions of some shards."""
    sums = sources.no_sums()
    with one_thread_each():  # the same bits on any number of cores
        for shard in shards:
            sources.add_shard(sums, shard)
    return sums
