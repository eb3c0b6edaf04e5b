"""95 % intervals of scores of whole sets, by leaving out one part after the other.

A Fréchet distance or a Vendi score is no mean over pictures, and it depends on their number: sets
that are sampled with replacement have fewer different pictures, so that a bootstrap's values are
all on one side of the score. Sets that lack one of G random parts have one number of pictures, and
the spread of their scores gives the standard error (Efron and Tibshirani, 1993, section 11.5). With
few parts it is uncertain itself, hence Student's t. Two sets lack the same captions, so a hard one
counts as what it is for both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corgi_core.metrics.bootstrap import CI_HIGH, CI_LOW, CONFIDENCE, DIGITS


def with_jackknife(name: str, value: float, left_out: Sequence[float]) -> dict[str, float]:
    """A score, and its interval as "<name>_ci_low" and "<name>_ci_high".

    Args:
        name: The score's.
        value: The score of all pictures.
        left_out: The scores without each of the parts. Fewer than two give no interval.

    Examples:
        >>> with_jackknife("vendi", 4.0, [3.9, 4.1])
        {'vendi': 4.0, 'vendi_ci_low': 2.72937953, 'vendi_ci_high': 5.27062047}
    """
    from scipy.special import stdtrit

    if (parts := len(left_out)) < 2:
        return {name: value}
    error = (parts - 1) ** 0.5 * np.std(left_out)
    half = float(stdtrit(parts - 1, (1 + CONFIDENCE) / 2) * error)
    low, high = round(value - half, DIGITS), round(value + half, DIGITS)
    return {name: value, name + CI_LOW: low, name + CI_HIGH: high}
