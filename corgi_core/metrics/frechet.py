"""The Fréchet distance between two sets of features (Heusel et al., 2017).

It is called FID only where the features are Inception's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Self

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError
from corgi_core.metrics.features import Features, check_features, check_widths, shuffled_parts

ROWS = 4096  # of features that are float64 at once
PARTS = 8  # of a set, whose sums are stored: quarters of the set, and of each half of it


@dataclass(frozen=True)
class FeatureSums:
    """Sums over features from which their statistics follow; the sums of two sets add up.

    They are about the set's own mean, which saves the covariance from cancellation (Chan, Golub and
    LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979). A sum
    of sums depends on their order by its rounding alone, so sets that are added in a fixed order
    have the same bits on any number of workers.

    Attributes:
        count: n, the number of features.
        mean: Theirs [d], float64.
        scatter: The sum of the outer products of their differences from the mean [d, d].
    """

    count: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @classmethod
    def of(cls, features: Features) -> Self:
        """Sums over features [n, d], float64 a block of rows at a time.

        Raises:
            CorgiError: there is no feature, or one is not finite.
        """
        check_features(features, at_least=1)
        origin = np.asarray(features[0], dtype=np.float64)
        total, products = np.zeros_like(origin), np.zeros((len(origin), len(origin)))
        for begin in range(0, len(features), ROWS):
            apart = features[begin : begin + ROWS] - origin
            total += apart.sum(axis=0)
            products += apart.T @ apart
        mean = total / len(features)
        products -= len(features) * np.outer(mean, mean)
        return cls(len(features), origin + mean, products)

    @classmethod
    def of_none(cls, width: int) -> Self:
        """The sums over no feature of that width, which add nothing."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    def __add__(self, other: Self) -> Self:
        """The sums over both sets.

        Raises:
            CorgiError: the widths differ.
        """
        check_widths(self.mean[None], other.mean[None])
        if not self.count or not other.count:
            return self if self.count else other
        count, apart = self.count + other.count, other.mean - self.mean
        scatter = np.outer(apart, apart)
        scatter *= self.count * other.count / count
        scatter += self.scatter
        scatter += other.scatter
        return type(self)(count, self.mean + apart * (other.count / count), scatter)

    @property
    def statistics(self) -> FeatureStatistics:
        """Mean and covariance; CorgiError for fewer than two features."""
        if self.count < 2:
            raise CorgiError("one feature has no covariance", "give at least two images")
        return FeatureStatistics(self.mean, self.scatter / (self.count - 1))

    @property
    def second_moment(self) -> NDArray[np.float64]:
        """The mean outer product of the features themselves [d, d], not about their mean."""
        moment: NDArray[np.float64] = self.scatter / self.count + np.outer(self.mean, self.mean)
        return moment


@dataclass(frozen=True)
class FeatureStatistics:
    """What the Fréchet distance is computed from.

    Attributes:
        mean: Of n features [d], float64.
        covariance: Theirs [d, d], with the divisor n − 1.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def of(cls, features: Features) -> FeatureStatistics:
        """Statistics of features [n, d].

        Raises:
            CorgiError: there are fewer than two, or one is not finite.
        """
        return FeatureSums.of(features).statistics


@dataclass(frozen=True)
class SumsByPart:
    """Sums over a set's features, dealt to parts at random: distance, bias and halves follow.

    Which part a row is in depends on its number in the set alone, so the sums of chunks of the set,
    computed anywhere, merge to those of the whole.

    Attributes:
        parts: The sums over each part; the bias needs them in four quarters.
    """

    parts: tuple[FeatureSums, ...]

    @classmethod
    def of(cls, features: Features) -> Self:
        """Sums over a whole set [n, d], n ≥ 2.

        Raises:
            CorgiError: there are fewer than two features, or one is not finite.
        """
        check_features(features)
        return cls.of_rows(np.arange(len(features)), len(features), features.__getitem__)

    @classmethod
    def of_rows(
        cls,
        rows: NDArray[np.int64],
        total: int,
        read: Callable[[NDArray[np.int64]], Features],
    ) -> Self:
        """Sums over some of a set's features, of which one part is in memory at a time.

        Args:
            rows: Their numbers in the set [n], n ≥ 1.
            total: How many features the whole set has.
            read: The features [m, d] of the rows at positions [m] of `rows`.

        Raises:
            CorgiError: a feature is not finite.
        """
        among = [np.flatnonzero(np.isin(rows, part)) for part in shuffled_parts(total, PARTS, 0)]
        found = [FeatureSums.of(read(at)) if len(at) else None for at in among]
        width = next(len(each.mean) for each in found if each is not None)
        return cls(tuple(each or FeatureSums.of_none(width) for each in found))

    def __add__(self, other: Self) -> Self:
        """The sums over both chunks of a set, part by part."""
        pairs = zip(self.parts, other.parts, strict=True)
        return type(self)(tuple(ours + theirs for ours, theirs in pairs))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored: "count" [p], "mean" [p, d], "scatter" [p, d (d + 1) / 2], a triangle."""
        corner = np.triu_indices(len(self.parts[0].mean))
        return {
            "count": np.array([each.count for each in self.parts]),
            "mean": np.stack([each.mean for each in self.parts]),
            "scatter": np.stack([each.scatter[corner] for each in self.parts]),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The sums that `arrays` was made from, with the same bits."""
        width = arrays["mean"].shape[1]
        corner, parts = np.triu_indices(width), list[FeatureSums]()
        for count, mean, triangle in zip(
            arrays["count"], arrays["mean"], arrays["scatter"], strict=True
        ):
            scatter = np.empty((width, width))
            scatter[corner] = triangle
            scatter.T[corner] = triangle
            parts.append(FeatureSums(int(count), np.array(mean), scatter))
        return cls(tuple(parts))

    @property
    def halves(self) -> tuple[Self, Self]:
        """Two random halves of the set."""
        middle = len(self.parts) // 2
        return type(self)(self.parts[:middle]), type(self)(self.parts[middle:])

    def without_each(self) -> Iterator[FeatureSums]:
        """Sums over all features but those of one part, for each part; one is in memory at a time.

        For none of them where a part has no feature.
        """
        if not all(each.count for each in self.parts):
            return
        for number in range(len(self.parts)):
            yield reduce(add, (*self.parts[:number], *self.parts[number + 1 :]))

    @property
    def whole(self) -> FeatureSums:
        """Sums over all features, joined in the parts' order."""
        return reduce(add, self.parts)

    @property
    def bias(self) -> float | None:
        """How far apart two independent samples of as many features are; None for fewer than eight.

        The distance of both halves is that of samples of n/2, the distances of quarters are those
        of n/4. What is lost from one to the other is lost once more from n/2 to n, as the distance
        falls by a power of n: by 1/n with many more features than their width (Chong and Forsyth,
        Effectively Unbiased FID and Inception Score, 2020), more slowly with fewer.
        """
        if sum(each.count for each in self.parts) < 8:
            return None
        halves, of_quarters = list[FeatureSums](), 0.0
        for half in self.halves:
            one, two = (each.whole for each in half.halves)
            of_quarters += _distance(one, two) / 2
            halves.append(one + two)
        of_halves = _distance(*halves)
        return of_halves**2 / of_quarters if of_quarters else 0.0


def _distance(a: FeatureSums, b: FeatureSums) -> float:
    return frechet_distance(a.statistics, b.statistics)


def frechet_by_part(a: SumsByPart, b: SumsByPart) -> NDArray[np.float64]:
    """The Fréchet distance of two sets, then their distances without each part of both.

    Args:
        a: Sums over one set of features.
        b: Those over the other, of the same width and dealt to as many parts.

    Returns:
        [1 + p] distances; the first alone where a part has no feature.

    Raises:
        CorgiError: a set has fewer than two features, or the widths differ.
    """
    pairs = zip(a.without_each(), b.without_each(), strict=False)
    return np.array([_distance(a.whole, b.whole), *(_distance(*pair) for pair in pairs)])


def bias_of_two(a: float | None, b: float | None) -> float | None:
    """The bias of the distance of two sets: the geometric mean of both sets' own.

    To second order in the sampling noise of covariances, that is exact where one covariance is a
    multiple of the other. None where a set has no estimate.
    """
    return None if a is None or b is None else (a * b) ** 0.5


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
