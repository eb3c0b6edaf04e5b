"""95 % intervals of means over captions, by the percentile bootstrap (Efron, 1979).

The resamples of n captions are the same for all that is measured on them. So the bootstrap is
paired: of two models on the same captions, the interval of the mean of a − b is that of the
difference of their means, and it is far narrower than either model's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
CI_LOW, CI_HIGH = "_ci_low", "_ci_high"  # what follows a score's name
DIGITS = 8  # so many are stored: further ones depend on the order in which a CPU sums
FINEST = 10 / RESAMPLES  # a tail that enough resamples lie in to say where it ends
AT_ONCE = 50  # resamples, whose weights are in memory


def bootstrap_intervals(values: NDArray[Any], seed: int = 0) -> NDArray[np.float64]:
    """Percentile intervals of the means of several scores.

    Args:
        values: Scores of n captions, [n, m], n ≥ 2.
        seed: Of the resamples.

    Returns:
        The low and the high ends, [2, m].

    Examples:
        >>> bootstrap_intervals(np.ones((5, 2)))
        array([[1., 1.],
               [1., 1.]])
    """
    wide = np.asarray(values, dtype=np.float64)
    return middle([weights @ wide for weights in resamples(len(wide), seed)])


def resamples(n: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """The weights of n captions in `AT_ONCE` resamples at a time, [AT_ONCE, n]: they sum to 1."""
    counts = _counts(n, seed)
    for first in range(0, RESAMPLES, AT_ONCE):
        yield counts[first : first + AT_ONCE].astype(np.float64) / n


def middle(
    means: Sequence[NDArray[np.float64]], confidence: float = CONFIDENCE
) -> NDArray[np.float64]:
    """The ends of the middle share of all resamples' means.

    Quantiles as far out as the outermost resamples are too near to the middle. So where a tail is
    smaller than `FINEST`, the ends of that one are moved away from the median, by as much as those
    of a normal distribution: each on its own, so that a skewed score's interval stays skewed.

    Args:
        means: The means of m scores in all resamples, a list of [AT_ONCE, m].
        confidence: The middle share.

    Returns:
        The low and the high ends, [2, m].
    """
    tail = round((1 - confidence) / 2, DIGITS)
    inner = max(tail, FINEST)
    low, median, high = np.quantile(np.concatenate(means), (inner, 0.5, 1 - inner), axis=0)
    ends = np.stack([low, high])
    if tail < inner:
        normal = NormalDist()
        ends = median + (ends - median) * (normal.inv_cdf(tail) / normal.inv_cdf(inner))
    rounded: NDArray[np.float64] = ends.round(DIGITS)
    return rounded


def with_intervals(values: Mapping[str, NDArray[Any]], seed: int = 0) -> dict[str, float]:
    """The mean of each score [n], and its interval as "<name>_ci_low" and "<name>_ci_high".

    One caption has no interval.
    """
    scores = {name: float(np.mean(each, dtype=np.float64)) for name, each in values.items()}
    every = np.stack([np.asarray(each, dtype=np.float64) for each in values.values()], axis=1)
    if len(every) > 1:
        low, high = bootstrap_intervals(every, seed).tolist()
        for name, below, above in zip(values, low, high, strict=True):
            scores |= {name + CI_LOW: below, name + CI_HIGH: above}
    return scores


def sum_with_interval(name: str, samples: Sequence[NDArray[Any]]) -> dict[str, float]:
    """The sum of the means of samples, and its interval, as `with_intervals` names them.

    Args:
        name: The score's.
        samples: The values of each sample [n], [m], …, which are sampled apart from one another.
            One value has no interval.

    Examples:
        >>> sum_with_interval("kid", [np.array([0.5, 0.5]), np.array([0.25, 0.25, 0.25])])
        {'kid': 0.75, 'kid_ci_low': 0.75, 'kid_ci_high': 0.75}
    """
    scores = {name: float(sum(np.mean(each, dtype=np.float64) for each in samples))}
    if min(map(len, samples)) > 1:
        resampled = (
            np.concatenate([weights @ values for weights in resamples(len(values), seed)])
            for seed, values in enumerate(samples)
        )
        (low,), (high,) = middle([sum(resampled, np.zeros(RESAMPLES))[:, None]]).tolist()
        scores |= {name + CI_LOW: low, name + CI_HIGH: high}
    return scores


@lru_cache(maxsize=4)
def _counts(n: int, seed: int) -> NDArray[np.uint8]:
    """How often each of n captions is in each resample, [RESAMPLES, n]: 60 MB for 30,000."""
    random, counts = np.random.default_rng(seed), np.empty((RESAMPLES, n), np.uint8)
    for row in counts:
        row[:] = np.bincount(random.integers(n, size=n), minlength=n)
    return counts
