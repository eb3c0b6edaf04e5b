"""Who votes without looking: a test that needs no known right answers.

A rater who does not look answers by position: at random, always left, always the same. Such answers
have nothing to do with what is on which side, so they can be dealt out anew among the questions and
agree as well with

* the rater's own first answers, where a question came a second time with its sides exchanged, and
* what others answered to the same questions.

Both agreements are compared with those after `DEALS` random deals of the rater's answers. The share
of deals that agree as well is an exact p-value of "does not look", whatever the rater's habits. A
rater is trusted once either test rejects that; who is not after `ENOUGH` votes is flagged. The
tests share the level `ESCAPING`, so no more than that share of those who do not look is trusted. A
rater who always prefers one model is trusted: that needs looking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ESCAPING = 0.02  # the share of those who do not look that is trusted, at most
ENOUGH = 30  # votes
DEALS = 999
SHORTEST = 1.0  # seconds of a vote that the pictures were looked at for
OUTCOMES = (-1, 0, 1)  # worse, same, better


class RaterVotes(NamedTuple):
    """One rater's votes in their order.

    Attributes:
        ranks: [n, a, k]: for each of a aspects the rank of the picture at each of k positions.
        order: [n, k]: which of the question's models was at each position, 0 … k − 1.
        first: [n]: where the question came a second time, the index of its first vote; else −1.
        others: [n, a, k(k − 1)/2, 3]: the share of other raters for whom the first of two models
            was worse than, the same as or better than the second; nan where there are none.
        seconds: [n]: how long each vote took.
    """

    ranks: NDArray[np.int64]
    order: NDArray[np.int64]
    first: NDArray[np.int64]
    others: NDArray[np.float64]
    seconds: NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """What is thought of a rater.

    Attributes:
        votes: How many there are.
        repeated: p-value of the agreement with the rater's own first answers; 1 without any.
        shared: p-value of the agreement with others; 1 without any.
        reason: Why the rater is flagged; None for one who is trusted or has too few votes yet.
    """

    votes: int
    repeated: float
    shared: float
    reason: str | None


def judged(votes: RaterVotes, seed: int = 0) -> Verdict:
    """Test whether a rater looks at the pictures.

    Args:
        votes: The rater's.
        seed: Of the deals.

    Returns:
        The p-values, and the reason where the rater is flagged.
    """
    n = len(votes.ranks)
    random = np.random.default_rng(seed)
    deals = np.tile(np.arange(n), (1 + DEALS, 1))  # the first is the actual one
    deals[1:] = random.permuted(deals[1:], axis=1)
    outcomes = preferences(votes.ranks[deals], votes.order)
    repeated = _p_value(_agreement_with_oneself(outcomes, votes.first))
    shared = _p_value(_agreement_with_others(outcomes, votes.others))
    tests = int((votes.first >= 0).any()) + int(not np.isnan(votes.others).all())
    reason = None
    if n >= ENOUGH and np.median(votes.seconds) < SHORTEST:
        reason = f"half of the votes took less than {SHORTEST:g} s"
    elif n >= ENOUGH and tests * min(repeated, shared) > ESCAPING:
        reason = "the answers fit neither the rater's own earlier ones nor those of others"
    return Verdict(n, repeated, shared, reason)


def preferences(ranks: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each two of a question's models whether the first is better (1), the same or worse.

    Args:
        ranks: [..., n, a, k] by position, 1 being best.
        order: [n, k], the models by position.

    Returns:
        [..., n, a, k(k − 1)/2], the models' pairs in the order (0, 1), (0, 2), …, (1, 2), …
    """
    position = np.argsort(order, axis=-1)[:, None, :]
    by_model = np.take_along_axis(ranks, np.broadcast_to(position, ranks.shape), axis=-1)
    pairs = list(combinations(range(order.shape[-1]), 2))
    first, second = (by_model[..., [pair[side] for pair in pairs]] for side in (0, 1))
    signs: NDArray[np.int64] = np.sign(second - first)
    return signs


def shares(preferred: Sequence[NDArray[np.int64]], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """How often each outcome is among several raters' preferences: [*shape, 3], nan for none."""
    if not preferred:
        return np.full((*shape, len(OUTCOMES)), np.nan)
    every = np.stack(preferred)
    found: NDArray[np.float64] = np.stack([(every == o).mean(axis=0) for o in OUTCOMES], axis=-1)
    return found


def _agreement_with_oneself(
    outcomes: NDArray[np.int64], first: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The share of repeated answers that are as before, for every deal [d]."""
    again = np.flatnonzero(first >= 0)
    if not len(again):
        return np.zeros(len(outcomes))
    agreed: NDArray[np.float64] = (outcomes[:, again] == outcomes[:, first[again]]).mean((1, 2, 3))
    return agreed


def _agreement_with_others(
    outcomes: NDArray[np.int64], others: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The mean share of others with the same answer, for every deal [d]."""
    asked = ~np.isnan(others).any(axis=(1, 2, 3))
    if not asked.any():
        return np.zeros(len(outcomes))
    chosen = np.stack([outcomes[:, asked] == outcome for outcome in OUTCOMES], axis=-1)
    agreed: NDArray[np.float64] = (chosen * others[asked]).sum(axis=-1).mean(axis=(1, 2, 3))
    return agreed


def _p_value(agreement: NDArray[np.float64]) -> float:
    """The share of deals, the actual one among them, that agree at least as well as it does."""
    return float((agreement >= agreement[0] - 1e-12).mean())
