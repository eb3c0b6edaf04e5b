"""The Fréchet distance between two sets of features (Heusel et al., 2017).

It is called FID only where the features are Inception's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError
from corgi_core.metrics.features import Features, check_features, check_widths, shuffled_parts

ROWS = 4096  # of features that are float64 at once


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
            features: What is summed, float64 a block of rows at a time.
            origin: The same [d] for all sums that are added; by default the first feature.

        Raises:
            CorgiError: there is no feature, or one is not finite.
        """
        check_features(features, at_least=1)
        first = np.asarray(features[0] if origin is None else origin, dtype=np.float64)
        total, products = np.zeros_like(first), np.zeros((len(first), len(first)))
        for begin in range(0, len(features), ROWS):
            apart = features[begin : begin + ROWS] - first
            total += apart.sum(axis=0)
            products += apart.T @ apart
        return cls(len(features), first, total, products)

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


@dataclass(frozen=True)
class FrechetEstimate:
    """A Fréchet distance between two samples, and how much of it is theirs alone.

    Attributes:
        value: The distance as it is always computed, which samples of one distribution have too.
        bias: An estimate of the distance of two independent samples of one distribution, of as many
            features; None with fewer than eight.
    """

    value: float
    bias: float | None


@dataclass(frozen=True)
class Quarters:
    """Sums over four quarters of a set of features, from which its distance and bias follow."""

    sums: tuple[FeatureSums, ...]

    @classmethod
    def of(cls, features: Features) -> Self:
        """Sums over features [n, d], n ≥ 2, that are dealt to the quarters at random.

        Raises:
            CorgiError: there are fewer than two features, or one is not finite.
        """
        check_features(features)
        parts = shuffled_parts(len(features), 4, seed=0)
        return cls(tuple(FeatureSums.of(features[p], features[0]) for p in parts if len(p)))

    @cached_property
    def whole(self) -> FeatureStatistics:
        """Statistics of all features."""
        first, *others = self.sums
        return sum(others, start=first).statistics

    @cached_property
    def bias(self) -> float | None:
        """How far apart two independent samples of as many features are; None for fewer than eight.

        The distance of both halves is that of samples of n/2, the distances of quarters are those
        of n/4. What is lost from one to the other is lost once more from n/2 to n, as the distance
        falls by a power of n: by 1/n with many more features than their width (Chong and Forsyth,
        Effectively Unbiased FID and Inception Score, 2020), more slowly with fewer.
        """
        if sum(each.count for each in self.sums) < 8:
            return None
        one, two, three, four = self.sums
        of_halves = _distance(one + two, three + four)
        of_quarters = (_distance(one, two) + _distance(three, four)) / 2
        return of_halves**2 / of_quarters if of_quarters else 0.0


def _distance(a: FeatureSums, b: FeatureSums) -> float:
    return frechet_distance(a.statistics, b.statistics)


def frechet_estimate(a: Quarters, b: Quarters) -> FrechetEstimate:
    """The Fréchet distance of two sets, and its bias: the geometric mean of both sets' own.

    To second order in the sampling noise of covariances, the mean is exact where one covariance is
    a multiple of the other.

    Args:
        a: Quarters of one set of features.
        b: Quarters of the other, of the same width.

    Raises:
        CorgiError: the widths differ.
    """
    value = frechet_distance(a.whole, b.whole)
    if a.bias is None or b.bias is None:
        return FrechetEstimate(value, None)
    return FrechetEstimate(value, (a.bias * b.bias) ** 0.5)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), at least 0.

    The trace of the root is the sum of the roots of the eigenvalues of Σ_a Σ_b. With Σ_a = L Lᵀ
    they are those of the symmetric Lᵀ Σ_b L, so no complex root arises. L is a Cholesky factor with
    pivots, which has as many columns as Σ_a has ranks: covariances may be singular, and those of
    few features are quick.

    Args:
        a: Statistics of one set of features.
        b: Statistics of the other, of the same width.

    Raises:
        CorgiError: the widths differ.

    Examples:
        >>> square = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
        >>> moved = square + [3.0, 4.0]
        >>> round(frechet_distance(FeatureStatistics.of(square), FeatureStatistics.of(moved)), 6)
        25.0
    """
    check_widths(a.mean[None], b.mean[None])
    order, root = _pivoted_cholesky(a.covariance)
    product = root.T @ b.covariance[np.ix_(order, order)] @ root
    cross = np.sqrt(np.linalg.eigvalsh(product).clip(min=0)).sum()
    gap = np.square(a.mean - b.mean).sum()
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return float(max(gap + traces - 2 * cross, 0.0))


def _pivoted_cholesky(
    covariance: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """An order [d] and a factor L [d, rank] with covariance[order][:, order] = L Lᵀ."""
    from scipy.linalg.lapack import dpstrf

    factor, pivots, rank, _ = dpstrf(covariance, lower=True)
    return pivots.astype(np.int64) - 1, np.tril(factor)[:, :rank]
