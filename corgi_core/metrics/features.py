"""What every metric asks of features before it computes with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError

Features: TypeAlias = NDArray[np.floating[Any]]
"""One row a picture: [n, d]."""


def check_features(features: Features, at_least: int = 2) -> None:
    """Refuse features that have no metric.

    Args:
        features: Of one set [n, d].
        at_least: The fewest rows that the metric is defined for.

    Raises:
        CorgiError: there are fewer rows or none, they are no matrix, or one is not finite.
    """
    if features.ndim != 2 or features.shape[1] == 0:
        raise CorgiError(
            f"features of shape {features.shape} are not [pictures, width]",
            "give one row of features for each picture",
        )
    if len(features) == 0:
        raise CorgiError("a set of pictures is empty", "give pictures to both sets")
    if len(features) < at_least:
        raise CorgiError(
            f"{len(features)} pictures are too few: the metric needs {at_least}",
            f"compare {at_least} or more",
        )
    wrong = ~np.isfinite(features).all(axis=1)
    if wrong.any():
        raise CorgiError(
            f"the features of {int(wrong.sum())} of {len(features):,} pictures are not finite, "
            f"first those of number {int(wrong.argmax())}",
            "look for broken images or embeddings, and compute the features again",
        )


def check_widths(a: Features, b: Features) -> None:
    """Refuse two sets whose features have different widths, as those of two extractors have."""
    if a.shape[1] != b.shape[1]:
        raise CorgiError(
            f"features of {a.shape[1]} and of {b.shape[1]} numbers are of different extractors",
            "compute the features of both sets by the same extractor",
        )


def unit_rows(features: Features) -> NDArray[np.float64]:
    """Features [n, d], of any norm but 0, scaled to norm 1."""
    rows = np.asarray(features, dtype=np.float64)
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def in_their_span(sets: Sequence[Features]) -> list[Features]:
    """Sets of features [n, d], [m, d], … in coordinates of the space that all of them span.

    Lengths and inner products stay, and so do Fréchet distances and Vendi scores. Fewer features
    than d have as many coordinates as there are features, float64, so that their covariances are
    small; as many or more stay as they are.

    Raises:
        CorgiError: a set is empty, a feature is not finite, or the widths differ.
    """
    for features in sets:
        check_features(features, at_least=1)
        check_widths(sets[0], features)
    if sum(map(len, sets)) >= sets[0].shape[1]:
        return list(sets)
    every = np.concatenate(sets).astype(np.float64)
    basis, _ = np.linalg.qr(every.T)
    return np.split(every @ basis, np.cumsum([len(features) for features in sets])[:-1])


def shuffled_parts(count: int, parts: int, seed: int) -> list[NDArray[np.int64]]:
    """The rows 0 … count − 1 in so many parts, at random, whose sizes differ by one at most.

    Rows that lie side by side are often alike, so parts are not cut from their order. Parts nest:
    the two halves of a set are the first four and the last four of its eight parts.
    """
    ends = [number * count // parts for number in range(1, parts)]
    return np.split(np.random.default_rng(seed).permutation(count), ends)
