"""Precision and recall of generated pictures (Kynkäänniemi et al., 2019).

A set's manifold is the union of balls around its features, each of which reaches to the feature's
k-th nearest neighbour. Precision is the share of generated features inside the real manifold,
recall the share of real ones inside the generated manifold: quality and coverage, measured apart.

Distances are computed between blocks of features, so memory holds the features and one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError

NEIGHBOURS = 3  # k, the paper's
BLOCK = 1024  # features

Features = NDArray[np.floating[Any]]


class PrecisionRecall(NamedTuple):
    """Precision and recall, both in [0, 1]."""

    precision: float
    recall: float


@dataclass(frozen=True)
class Manifold:
    """The balls around a set of features.

    Attributes:
        features: Their centres [n, d].
        squared_radii: The squared distance of each to its k-th nearest other one, float64 [n].
    """

    features: Features
    squared_radii: NDArray[np.float64]

    @classmethod
    def of(cls, features: Features, neighbours: int = NEIGHBOURS) -> Self:
        """The manifold of features [n, d], n > `neighbours`.

        Raises:
            CorgiError: If there are too few features, or one is not finite.
        """
        if len(features) <= neighbours:
            raise CorgiError(
                f"{len(features)} pictures have no {neighbours} nearest neighbours each",
                f"compare more than {neighbours}",
            )
        if not np.isfinite(features).all():
            raise CorgiError("a feature is not finite", "look for broken images or embeddings")
        return cls(features, _squared_radii(features, neighbours))


def precision_recall(
    real: Features, generated: Features, neighbours: int = NEIGHBOURS
) -> PrecisionRecall:
    """Precision and recall of generated features, by balls of k nearest neighbours.

    Args:
        real: Features [n, d] of real images, n > `neighbours`.
        generated: Features [m, d] of generated images, m > `neighbours`.
        neighbours: k.

    Returns:
        Both shares.

    Raises:
        CorgiError: If a set is too small, or a feature is not finite.

    Examples:
        >>> real = np.arange(8.0)[:, None]
        >>> half_outside = np.array([[0.5], [1.5], [100.0], [101.0]])
        >>> precision_recall(real, half_outside).precision
        0.5
    """
    return between(Manifold.of(real, neighbours), Manifold.of(generated, neighbours))


def between(real: Manifold, generated: Manifold) -> PrecisionRecall:
    """Precision and recall of generated features, from the manifolds of both sets."""
    precise = np.zeros(len(generated.features), dtype=bool)
    recalled = np.zeros(len(real.features), dtype=bool)
    for rows in _blocks(len(precise)):
        for columns in _blocks(len(recalled)):
            distances = _squared_distances(generated.features[rows], real.features[columns])
            precise[rows] |= (distances <= real.squared_radii[columns]).any(axis=1)
            within = distances <= generated.squared_radii[rows, None]
            recalled[columns] |= within.any(axis=0)
    return PrecisionRecall(precision=float(precise.mean()), recall=float(recalled.mean()))


def _squared_radii(features: Features, neighbours: int) -> NDArray[np.float64]:
    """To the k-th nearest other feature, squared [n]."""
    nearest = np.full((len(features), neighbours + 1), np.inf)
    for rows in _blocks(len(features)):
        for columns in _blocks(len(features)):
            if columns.start < rows.start:  # distances are the same there and back
                continue
            distances = _squared_distances(features[rows], features[columns])
            if rows == columns:
                np.fill_diagonal(distances, -1)  # itself comes first, whatever rounding says
            else:
                nearest[columns] = _smallest(nearest[columns], distances.T)
            nearest[rows] = _smallest(nearest[rows], distances)
    radii: NDArray[np.float64] = nearest.max(axis=1)
    return radii


def _smallest(first: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest of both in each row, as many as there are in `first`, in any order."""
    columns = first.shape[1]
    candidates = np.concatenate([first, others], axis=1)
    return np.partition(candidates, columns - 1, axis=1)[:, :columns]


def _blocks(count: int) -> Iterator[slice]:
    """The rows 0 … count − 1 in blocks; the same blocks for every set of as many rows."""
    for first in range(0, count, BLOCK):
        yield slice(first, min(first + BLOCK, count))


def _squared_distances(a: Features, b: Features) -> NDArray[np.float64]:
    """[n, m], in float64; not below 0."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    squares = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)
    distances: NDArray[np.float64] = squares - 2 * x @ y.T
    return distances.clip(min=0, out=distances)
