"""The Bradley–Terry model: one strength a model, from votes between two of them.

Model i is preferred to model j with probability 1 / (1 + exp(θⱼ − θᵢ)). A vote for neither is half
a vote for each. One such vote is added between every two models that were compared, so that a model
without a single win has a strength too (for two models this is the Haldane–Anscombe correction).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError

ITERATIONS, TOLERANCE = 10_000, 1e-9
RESAMPLES = 1000
SAME = 1e-6  # resamples that differ by less are one
INTERVAL = (2.5, 97.5)  # percentiles of the resamples


class Strengths(NamedTuple):
    """Strengths in log-odds [m], of mean 0, with the ends of their 95 % intervals [m].

    The ends are nan where all prompts say the same, such as that one model always wins: a bootstrap
    knows no more than the votes, and how strong such a model is remains open.
    """

    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def bradley_terry(wins: NDArray[np.float64], seed: int = 0) -> Strengths:
    """Strengths from the votes, with intervals from a bootstrap over prompts.

    The votes on one prompt depend on each other, so prompts are resampled, and not votes.

    Args:
        wins: [p, m, m]: for each prompt, the votes for model i against model j; a vote for neither
            is 0.5 both ways.
        seed: Of the resamples.

    Returns:
        The strengths of the m models.

    Raises:
        CorgiError: If the votes leave models uncompared: A with B, C with D, and neither with both.

    Examples:
        >>> votes = np.array([[[0.0, 19.5], [4.5, 0.0]]])  # and one for neither, which is added
        >>> first, second = bradley_terry(votes).values
        >>> round(float(np.exp(first - second)), 4)  # 20 votes against 5
        4.0
    """
    total = wins.sum(axis=0)
    if not _is_connected(total + total.T > 0):
        raise CorgiError(
            "some models were never compared with the others, by a chain of votes neither",
            "ask for votes on all of them together",
        )
    prompts = len(wins)
    weights = np.random.default_rng(seed).multinomial(
        prompts, np.full(prompts, 1 / prompts), size=RESAMPLES
    )
    resampled = np.einsum("bp,pij->bij", weights.astype(np.float64), wins)
    compared = ((total + total.T) > 0) / 2
    values = _maximum_likelihood((total + compared)[None])[0]
    low, high = np.percentile(_maximum_likelihood(resampled + compared), INTERVAL, axis=0)
    unknown = high - low < SAME
    return Strengths(values, np.where(unknown, np.nan, low), np.where(unknown, np.nan, high))


def _maximum_likelihood(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """θ [b, m] of votes [b, m, m], by minorisation and maximisation (Hunter, 2004, eq. 3)."""
    votes, won = wins + wins.transpose(0, 2, 1), wins.sum(axis=2)
    strength = np.ones(won.shape)
    for _ in range(ITERATIONS):
        new = won / (votes / (strength[:, :, None] + strength[:, None, :])).sum(axis=2)
        new /= np.exp(np.log(new).mean(axis=1, keepdims=True))
        converged = np.abs(np.log(new / strength)).max() < TOLERANCE
        strength = new
        if converged:
            break
    theta: NDArray[np.float64] = np.log(strength)
    return theta


def _is_connected(compared: NDArray[np.bool_]) -> bool:
    reached = np.zeros(len(compared), dtype=bool)
    reached[0] = True
    for _ in compared:
        reached |= compared[reached].any(axis=0)
    return bool(reached.all())
