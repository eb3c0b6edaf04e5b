"""The maximum mean discrepancy of two sets of features (Gretton et al., 2012), for any kernel.

Its unbiased estimate (equation 3) compares all pairs, which takes a time of n². So large sets are
split into parts of at most 1,000, the estimate is averaged over the parts, and the time is linear
in n (section 6, with larger parts). The average is unbiased too; the parts have no feature in
common, so their spread gives a standard error.

Two sets of one size may be pairs: row i of one may have been made from row i of the other, as a
picture from its image's embedding. Pairs are nearer than chance, so none is compared with itself:
both sets are split alike, and the rows of one pair are left out of the comparison between the sets.
That has no bias with or without pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corgi_core.metrics.features import Features, check_features, check_widths, shuffled_parts

PART = 1000  # features of a set that are compared with one another

Matrix = NDArray[np.float64]
Kernel = Callable[[Matrix, Matrix], Matrix]
"""kernel(a, b) of features [n, d] and [m, d]: its values of all pairs [n, m]."""


class MMD(NamedTuple):
    """An estimate of the squared discrepancy.

    Attributes:
        value: About 0 for two samples of one distribution, and possibly below.
        error: Its standard error over parts; NaN where all features are one part.
    """

    value: float
    error: float


def squared_mmd(real: Features, generated: Features, kernel: Kernel) -> MMD:
    """The squared discrepancy, without bias.

    Args:
        real: Features [n, d], n ≥ 2.
        generated: Features [m, d], m ≥ 2.
        kernel: The values of all pairs of two sets.

    Returns:
        The estimate and its standard error. The parts are the same in every run.

    Raises:
        CorgiError: a set is too small, a feature is not finite, or the widths differ.

    Examples:
        >>> two = np.array([[0.0], [2.0]])
        >>> squared_mmd(two, two + 1, lambda a, b: a @ b.T).value  # 0 · 2 + 1 · 3 − (0 · 3 + 2 · 1)
        1.0
    """
    check_features(real)
    check_features(generated)
    check_widths(real, generated)
    may_be_pairs = len(real) == len(generated)
    return mmd_of_parts(
        part_mmd(real[a], generated[b], kernel, may_be_pairs)
        for a, b in paired_parts(len(real), len(generated))
    )


def paired_parts(real: int, generated: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The rows of both sets that are compared with one another, part by part.

    Args:
        real: How many real features there are, two or more.
        generated: How many generated ones, two or more.
    """
    parts = min(-(-max(real, generated) // PART), min(real, generated) // 2)
    ours, theirs = (shuffled_parts(count, parts, seed=0) for count in (real, generated))
    return list(zip(ours, theirs, strict=True))


def part_mmd(real: Features, generated: Features, kernel: Kernel, may_be_pairs: bool) -> float:
    """The squared discrepancy of one part, from the means of the kernel in three blocks of pairs.

    Args:
        real: Features [n, d], n ≥ 2.
        generated: Features [m, d], m ≥ 2.
        kernel: The values of all pairs of two sets.
        may_be_pairs: Whether rows of one number are left out between the sets, as within them.
    """
    if may_be_pairs:
        return float(mmd_by_pair(real, generated, kernel).mean())
    return float(sum(each.mean() for each in mmd_by_feature(real, generated, kernel)))


def mmd_by_feature(
    real: Features, generated: Features, kernel: Kernel
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values [n] and [m] whose means sum to the squared discrepancy: a feature beside all others.

    Args:
        real: Features [n, d], n ≥ 2.
        generated: Features [m, d], m ≥ 2, which are no pairs with the real ones.
        kernel: The values of all pairs of two sets.
    """
    x, y = (np.asarray(each, dtype=np.float64) for each in (real, generated))
    between = kernel(x, y)
    return (
        _means_of_others(kernel(x, x)) - between.mean(axis=1),
        _means_of_others(kernel(y, y)) - between.mean(axis=0),
    )


def mmd_by_pair(real: Features, generated: Features, kernel: Kernel) -> NDArray[np.float64]:
    """What the squared discrepancy of n pairs is the mean of: one pair beside all others [n].

    Args:
        real: Features [n, d], n ≥ 2.
        generated: Features [n, d]; row i is of the pair i.
        kernel: The values of all pairs of two sets.
    """
    x, y = (np.asarray(each, dtype=np.float64) for each in (real, generated))
    between = kernel(x, y)
    within = _means_of_others(kernel(x, x)) + _means_of_others(kernel(y, y))
    return within - _means_of_others(between) - _means_of_others(between.T)


def influences(
    by_feature: NDArray[np.float64], parts: Iterable[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Values [n] whose mean is the estimate, and whose spread over pairs is that of the estimate.

    A pair counts twice, as each of its features is compared with others and others with it
    (Hoeffding's projection, van der Vaart, Asymptotic Statistics, 1998, section 12.1). So their
    bootstrap is that of the estimate; where both sets are of one distribution it is too wide.

    Args:
        by_feature: `mmd_by_pair` of every pair of the sets [n], or of one set `mmd_by_feature`:
            then the mean is that set's share of the estimate.
        parts: The rows that were compared with one another.
    """
    rows = list(parts)
    value = mmd_of_parts(float(by_feature[each].mean()) for each in rows).value
    found = np.empty_like(by_feature)
    for each in rows:
        found[each] = value + 2 * (by_feature[each] - by_feature[each].mean())
    return found


def mmd_influences(
    real: Features, generated: Features, kernel: Kernel
) -> list[NDArray[np.float64]]:
    """What the squared discrepancy is the sum of the means of, an array for each sample.

    Sets of one size are a sample of pairs, with one array [n]; others are two samples, with [n] and
    [m].

    Args:
        real: Features [n, d], n ≥ 2.
        generated: Features [m, d], m ≥ 2.
        kernel: The values of all pairs of two sets.

    Raises:
        CorgiError: a set is too small, a feature is not finite, or the widths differ.
    """
    check_features(real)
    check_features(generated)
    check_widths(real, generated)
    parts = paired_parts(len(real), len(generated))
    ours, theirs = ([part[side] for part in parts] for side in (0, 1))
    if len(real) == len(generated):
        by_pair = np.empty(len(real))
        for at in ours:
            by_pair[at] = mmd_by_pair(real[at], generated[at], kernel)
        return [influences(by_pair, ours)]
    by_real, by_generated = np.empty(len(real)), np.empty(len(generated))
    for a, b in parts:
        by_real[a], by_generated[b] = mmd_by_feature(real[a], generated[b], kernel)
    return [influences(by_real, ours), influences(by_generated, theirs)]


def mmd_of_parts(estimates: Iterable[float]) -> MMD:
    """The estimate from those of all parts, in the parts' order, with its standard error."""
    found = np.array(list(estimates))
    error = found.std(ddof=1) / len(found) ** 0.5 if len(found) > 1 else np.nan
    return MMD(float(found.mean()), float(error))


def _means_of_others(values: Matrix) -> NDArray[np.float64]:
    """The means of a square matrix's rows [n, n] without its diagonal: [n]."""
    means: NDArray[np.float64] = (values.sum(axis=1) - np.diagonal(values)) / (len(values) - 1)
    return means
