"""Krippendorff's alpha: how far raters agree beyond chance; ratings may be missing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def krippendorff_alpha(ratings: NDArray[np.float64]) -> float:
    """α = 1 − observed/expected disagreement, for the interval metric (Krippendorff, 2011).

    The disagreement of two values is their squared difference: between better (1) and worse (−1)
    it is four times that between better and same (0). α is 1 where all agree and about 0 where
    they answer by chance.

    Args:
        ratings: [units, raters], nan where a rater did not rate a unit. Units with fewer than two
            ratings do not count.

    Returns:
        α; nan where no unit has two ratings, or all ratings are the same.

    Examples:
        >>> krippendorff_alpha(np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]))
        1.0
    """
    ratings = ratings[(~np.isnan(ratings)).sum(axis=1) >= 2]
    given = ~np.isnan(ratings)
    if not len(ratings):
        return float("nan")
    values, positions = np.unique(ratings[given], return_inverse=True)
    counts = np.zeros((len(ratings), len(values)))
    np.add.at(counts, (np.nonzero(given)[0], positions), 1)
    distance = np.square(values[:, None] - values)
    observed = np.einsum("uc,uk,ck->u", counts, counts, distance) / (counts.sum(axis=1) - 1)
    total = counts.sum(axis=0)
    expected = total @ distance @ total / (total.sum() - 1)
    return float(1 - observed.sum() / expected) if expected > 0 else float("nan")
