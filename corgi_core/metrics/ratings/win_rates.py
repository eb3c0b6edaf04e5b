"""Shares of votes, with Wilson's interval."""

from __future__ import annotations

import math
from typing import NamedTuple

from corgi_core.errors import CorgiError

RATES = {1: "win rate", 0: "same rate", -1: "loss rate"}
"""The names of the shares of votes between two models, by the sign of the vote."""
Z_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


class Share(NamedTuple):
    """A share of votes and its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, count: int) -> Share:
    """The share of successes with Wilson's score interval (Wilson, 1927).

    With p = x/n and z = 1.96 the interval is (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n):
    all q for which |p − q| ≤ z √(q(1 − q)/n). It lies in [0, 1], also where p is 0 or 1.

    Args:
        successes: x.
        count: n, the votes, taken to be independent.

    Returns:
        x/n and the interval.

    Raises:
        CorgiError: If there are no votes, or more successes than votes.

    Examples:
        >>> [round(value, 4) for value in wilson(10, 20)]
        [0.5, 0.2993, 0.7007]
    """
    if not 0 <= successes <= count or count == 0:
        raise CorgiError(f"{successes} of {count} votes are no share", "give one vote at least")
    p, z2 = successes / count, Z_95**2
    middle = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2) * math.sqrt(p * (1 - p) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return Share(p, max(middle - half, 0.0), min(middle + half, 1.0))
