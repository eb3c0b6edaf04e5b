"""Precision and recall of generated pictures (Kynkäänniemi et al., 2019).

A set's manifold is the union of balls around its features, each of which reaches to the feature's
k-th nearest neighbour. Precision is the share of generated features inside the real manifold,
recall the share of real ones inside the generated manifold: quality and coverage, measured apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError

NEIGHBOURS = 3  # k, the paper's

Features = NDArray[np.floating[Any]]


class PrecisionRecall(NamedTuple):
    """Precision and recall, both in [0, 1]."""

    precision: float
    recall: float


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
    for features in (real, generated):
        if len(features) <= neighbours:
            raise CorgiError(
                f"{len(features)} pictures have no {neighbours} nearest neighbours each",
                f"compare more than {neighbours}",
            )
        if not np.isfinite(features).all():
            raise CorgiError("a feature is not finite", "look for broken images or embeddings")
    between = _squared_distances(generated, real)
    return PrecisionRecall(
        precision=_share_within(between, _squared_radii(real, neighbours)),
        recall=_share_within(between.T, _squared_radii(generated, neighbours)),
    )


def _share_within(distances: Features, radii: Features) -> float:
    """The share of rows that are in any column's ball."""
    return float((distances <= radii).any(axis=1).mean())


def _squared_radii(features: Features, neighbours: int) -> Features:
    """To the k-th nearest other feature, squared [n]."""
    distances = _squared_distances(features, features)
    np.fill_diagonal(distances, -1)  # itself comes first, whatever rounding says
    return np.partition(distances, neighbours, axis=1)[:, neighbours]


def _squared_distances(a: Features, b: Features) -> Features:
    """[n, m], in float64; not below 0."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    squares = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)
    distances: Features = (squares - 2 * x @ y.T).clip(min=0)
    return distances
