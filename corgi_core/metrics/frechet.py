"""The Fréchet distance between two sets of features (Heusel et al., 2017).

It is called FID only where the features are Inception's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError


@dataclass(frozen=True)
class FeatureSums:
    """Sums over features from which their statistics follow; the sums of two sets add up.

    A sum of sums depends on their order by its rounding alone, so features that are summed chunk by
    chunk, in the chunks' order, have the same bits on any number of workers.

    Attributes:
        count: n, the number of features.
        origin: What is subtracted from every feature [d], float64. Near the mean, it saves the
            covariance from cancellation.
        total: The sum of the differences [d].
        products: The sum of their outer products [d, d].
    """

    count: int
    origin: NDArray[np.float64]
    total: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def of(
        cls, features: NDArray[np.floating[Any]], origin: NDArray[np.floating[Any]] | None = None
    ) -> Self:
        """Sums over features [n, d], n ≥ 1.

        Args:
            features: What is summed.
            origin: The same [d] for all sums that are added; by default the first feature.

        Raises:
            CorgiError: there is no feature, or one is not finite.
        """
        if features.ndim != 2 or not len(features):
            raise CorgiError(
                f"features of shape {features.shape} have no covariance", "give at least two images"
            )
        if not np.isfinite(features).all():
            raise CorgiError("a feature is not finite", "look for broken images or embeddings")
        first = np.asarray(features[0] if origin is None else origin, dtype=np.float64)
        apart = features - first
        return cls(len(features), first, apart.sum(axis=0), apart.T @ apart)

    def __add__(self, other: Self) -> Self:
        """The sums over both sets; ValueError where they have different origins."""
        if not np.array_equal(self.origin, other.origin):
            raise ValueError("sums about different origins do not add up")
        return type(self)(
            self.count + other.count,
            self.origin,
            self.total + other.total,
            self.products + other.products,
        )

    @property
    def statistics(self) -> FeatureStatistics:
        """Mean and covariance; CorgiError for fewer than two features."""
        if self.count < 2:
            raise CorgiError("one feature has no covariance", "give at least two images")
        mean = self.total / self.count
        scatter = self.products - self.count * np.outer(mean, mean)
        return FeatureStatistics(self.origin + mean, scatter / (self.count - 1))


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean [d] and covariance [d, d] (divisor n − 1) of n features, float64."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray[np.floating[Any]]) -> FeatureStatistics:
        """Statistics of features [n, d].

        Raises:
            CorgiError: there are fewer than two, or one is not finite.
        """
        return FeatureSums.of(features).statistics

    @classmethod
    def of_chunks(cls, chunks: Iterable[NDArray[np.floating[Any]]]) -> FeatureStatistics:
        """Statistics of features that come in chunks [n, d], one of which is in memory at a time.

        Raises:
            CorgiError: there are fewer than two features, or one is not finite.
        """
        sums: FeatureSums | None = None
        for chunk in chunks:
            more = FeatureSums.of(chunk, None if sums is None else sums.origin)
            sums = more if sums is None else sums + more
        if sums is None:
            raise CorgiError("no features have no covariance", "give at least two images")
        return sums.statistics


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), at least 0.

    The trace of the root is the sum of the roots of the eigenvalues of Σ_a Σ_b, which are also
    those of the symmetric Σ_a^½ Σ_b Σ_a^½: so no complex root arises, and covariances may be
    singular.

    Args:
        a: Statistics of one set of features.
        b: Statistics of the other, of the same width.

    Examples:
        >>> square = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
        >>> moved = square + [3.0, 4.0]
        >>> round(frechet_distance(FeatureStatistics.of(square), FeatureStatistics.of(moved)), 6)
        25.0
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b.covariance @ root).clip(min=0)).sum()
    gap = np.square(a.mean - b.mean).sum()
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return float(max(gap + traces - 2 * cross, 0.0))
