"""The Vendi score: how many pictures that have nothing in common a set is worth.

Friedman and Dieng, The Vendi Score: A Diversity Evaluation Metric for Machine Learning, 2023.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corgi_core.metrics.features import Features, check_features, shuffled_parts, unit_rows
from corgi_core.metrics.frechet import PARTS, SumsByPart

ROWS = 4096  # of features that are float64 at once


def vendi(features: Features) -> float:
    """exp of the entropy of the eigenvalues of K / n, where K has the cosines of all pairs.

    K / n and the mean outer product of the features have the same eigenvalues but for zeros, so the
    smaller of the two is computed, and memory grows with n or with d² alone.

    Args:
        features: Features [n, d], n ≥ 1, of any norm but 0.

    Returns:
        From 1, where all features point to one direction, to n, where they are orthogonal.

    Raises:
        CorgiError: there is no feature, or one is not finite.

    Examples:
        >>> round(vendi(np.eye(5)), 6), round(vendi(np.ones((5, 3))), 6)
        (5.0, 1.0)
    """
    check_features(features, at_least=1)
    count, width = features.shape
    if count <= width:
        rows = unit_rows(features)
        return vendi_of_moment(rows @ rows.T / count)
    products = np.zeros((width, width))
    for first in range(0, count, ROWS):
        rows = unit_rows(features[first : first + ROWS])
        products += rows.T @ rows
    return vendi_of_moment(products / count)


def vendi_of_moment(moment: NDArray[np.float64]) -> float:
    """The score from the mean outer product [d, d] of features of norm 1.

    That is their `second_moment`, which follows from the sums of the Fréchet distance.
    """
    shares = np.linalg.eigvalsh(moment)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def vendi_of_sums(sums: SumsByPart) -> NDArray[np.float64]:
    """The score of a set, then those without each of its parts.

    Args:
        sums: Sums over features of norm 1.

    Returns:
        [1 + p] scores; the first alone where a part has no feature.
    """
    every = (sums.whole, *sums.without_each())
    return np.array([vendi_of_moment(each.second_moment) for each in every])


def vendi_bias(scores: NDArray[np.float64]) -> float | None:
    """How far the score of so many pictures is above that of endlessly many: below 0.

    It is the score less the exponential of the entropy's jackknife estimate (Zahl, Jackknifing an
    Index of Diversity, 1977). Where pictures are few for their variety, the true bias is larger.

    Args:
        scores: What `vendi_of_sums` or `vendi_by_part` gives.

    Returns:
        The bias; None of fewer than two parts.

    Examples:
        >>> round(vendi_bias(np.array([4.0, 3.9, 3.9])), 6)
        -0.102564
    """
    whole, *left_out = np.log(scores)
    if (parts := len(left_out)) < 2:
        return None
    entropy = parts * whole - (parts - 1) * np.mean(left_out)
    return float(scores[0] - np.exp(entropy))


def vendi_by_part(features: Features) -> NDArray[np.float64]:
    """`vendi_of_sums` of features [n, d] of any norm but 0, quickly where n is no more than d.

    Raises:
        CorgiError: there are fewer than two features, or one is not finite.
    """
    check_features(features)
    count, width = features.shape
    every = np.arange(count)
    if count > width:
        return vendi_of_sums(SumsByPart.of_rows(every, count, lambda at: unit_rows(features[at])))
    rows, parts = unit_rows(features), shuffled_parts(count, PARTS, 0)
    cosines, left_out = rows @ rows.T, parts if all(map(len, parts)) else []
    remaining = [every, *(np.delete(every, part) for part in left_out)]
    return np.array([vendi_of_moment(cosines[np.ix_(at, at)] / len(at)) for at in remaining])
