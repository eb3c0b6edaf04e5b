"""Precision, recall, density and coverage of generated pictures.

A set's manifold is the union of balls around its features, each of which reaches to the feature's
k-th nearest neighbour. Precision is the share of generated features inside the real manifold,
recall the share of real ones inside the generated manifold: quality and coverage, measured apart
(Kynkäänniemi et al., 2019). One outlier makes a ball that holds much; so density counts in how many
real balls a generated feature is, and coverage the real balls that hold one (Naeem et al., 2020).

Distances are computed between blocks of features, so memory holds the features and one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError
from corgi_core.metrics.features import Features, check_features, check_widths

NEIGHBOURS = 3  # k of precision and recall, the paper's
DENSE_NEIGHBOURS = 5  # k of density and coverage, theirs
BLOCK = 1024  # features


class PrecisionRecall(NamedTuple):
    """Precision and recall, both in [0, 1]."""

    precision: float
    recall: float


class ManifoldScores(NamedTuple):
    """All four scores of generated features.

    Attributes:
        precision: In [0, 1].
        recall: In [0, 1].
        density: About 1 where both sets are of one distribution, and possibly above.
        coverage: In [0, 1]; 1 − 2⁻⁵ = 0.97 where both sets are large, and of one distribution.
    """

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class Inside:
    """Which features of two sets are inside the other set's balls, feature by feature.

    Attributes:
        precise: Whether each generated feature is in a real ball of `neighbours` [m].
        recalled: Whether each real feature is in a generated ball of `neighbours` [n].
        balls: In how many real balls of `dense` neighbours each generated feature is [m].
        covered: Whether the real ball of `dense` neighbours around each holds a generated one [n].
        dense: k of density and coverage.
    """

    precise: NDArray[np.bool_]
    recalled: NDArray[np.bool_]
    balls: NDArray[np.int64]
    covered: NDArray[np.bool_]
    dense: int

    @property
    def by_feature(self) -> dict[str, NDArray[Any]]:
        """What the four scores are the means of, by their names: [m], [n], [m] and [n]."""
        return {
            "precision": self.precise, "recall": self.recalled,
            "density": self.balls / self.dense, "coverage": self.covered,
        }  # fmt: skip

    @property
    def scores(self) -> ManifoldScores:
        """All four scores."""
        return ManifoldScores(**{name: float(v.mean()) for name, v in self.by_feature.items()})


@dataclass(frozen=True)
class Manifold:
    """The balls around a set of features.

    Attributes:
        features: Their centres [n, d].
        nearest: The squared distances of each to its nearest other ones, nearest first, float64
            [n, k] for the largest k that is asked for.
    """

    features: Features
    nearest: NDArray[np.float64]

    @classmethod
    def of(cls, features: Features, neighbours: int = DENSE_NEIGHBOURS) -> Self:
        """The manifold of features [n, d], n > `neighbours`.

        Raises:
            CorgiError: There are too few features, or one is not finite.
        """
        if 0 < len(features) <= neighbours:
            raise CorgiError(
                f"{len(features)} pictures have no {neighbours} nearest neighbours each",
                f"compare more than {neighbours}",
            )
        check_features(features)
        return cls(features, _nearest(features, neighbours))

    def squared_radii(self, neighbours: int) -> NDArray[np.float64]:
        """Of the balls that reach to the k-th nearest other feature [n]."""
        return self.nearest[:, neighbours - 1]


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
        CorgiError: A set is too small, or a feature is not finite.

    Examples:
        >>> real = np.arange(8.0)[:, None]
        >>> half_outside = np.array([[0.5], [1.5], [100.0], [101.0]])
        >>> precision_recall(real, half_outside).precision
        0.5
    """
    first, second = (Manifold.of(features, neighbours) for features in (real, generated))
    found = between(first, second, neighbours)
    return PrecisionRecall(found.precision, found.recall)


def between(real: Manifold, generated: Manifold, neighbours: int = NEIGHBOURS) -> ManifoldScores:
    """All four scores of generated features, from the manifolds of both sets: means of `inside`."""
    return inside(real, generated, neighbours).scores


def inside(real: Manifold, generated: Manifold, neighbours: int = NEIGHBOURS) -> Inside:
    """Which features are inside the other set's balls, from the manifolds of both sets.

    Args:
        real: Of the real images.
        generated: Of the generated ones.
        neighbours: k of precision and recall. Density and coverage have the manifold's largest.

    Raises:
        CorgiError: The features have different widths.
    """
    check_widths(real.features, generated.features)
    radii, generated_radii = (each.squared_radii(neighbours) for each in (real, generated))
    dense = real.nearest.shape[1]
    dense_radii = real.squared_radii(dense)
    count = len(generated.features)
    precise, recalled = np.zeros(count, dtype=bool), np.zeros(len(radii), dtype=bool)
    covered, balls = np.zeros(len(radii), dtype=bool), np.zeros(count, dtype=np.int64)
    for rows in _blocks(count):
        for columns in _blocks(len(radii)):
            distances = _squared_distances(generated.features[rows], real.features[columns])
            precise[rows] |= (distances <= radii[columns]).any(axis=1)
            recalled[columns] |= (distances <= generated_radii[rows, None]).any(axis=0)
            within = distances <= dense_radii[columns]
            covered[columns] |= within.any(axis=0)
            balls[rows] += np.count_nonzero(within, axis=1)
    return Inside(precise, recalled, balls, covered, dense)


def _nearest(features: Features, neighbours: int) -> NDArray[np.float64]:
    """To the nearest other features, squared, nearest first [n, k]."""
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
    return np.sort(nearest, axis=1)[:, 1:]


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
