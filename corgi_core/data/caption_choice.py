"""Which images to caption next: rules that choose some of many images by their embeddings.

All rules choose one image after the other, and none that is a near twin of an image with a caption,
or of one that was chosen before.

- "coverage" spreads over the embedding space as k-means++ does (Arthur and Vassilvitskii, 2007),
  with the images that have captions as its first centres. An image is chosen with a probability in
  proportion to its squared distance to the nearest centre, and is a centre from then on.
- "uncertainty" chooses in the same way, but its first centres are what the prior generates for the
  captions that there are. So it looks for images that the prior cannot generate yet.
- "random" chooses uniformly.

A squared distance is that of directions: 2 (1 − cosine), averaged over the encoders.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError

COVERAGE, UNCERTAINTY, RANDOM = "coverage", "uncertainty", "random"
RULES = (COVERAGE, UNCERTAINTY, RANDOM)


@dataclass(frozen=True)
class Candidates:
    """Images without a caption.

    Attributes:
        keys: Their keys [n].
        directions: Their embeddings, float32 [n, d], scaled such that the inner product of two is
            the mean of the encoders' cosines.
        captioned: Cosine to the nearest image that has a caption [n]; −1 where none has one.
    """

    keys: NDArray[np.str_]
    directions: NDArray[np.float32]
    captioned: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Choice:
    """One image to caption.

    Attributes:
        row: Its number among the candidates.
        cosine: To the nearest image that has a caption or was chosen before it.
        reach: To the nearest of the prior's samples; None where the rule asks for none.
    """

    row: int
    cosine: float
    reach: float | None = None


def choose(
    candidates: Candidates,
    budget: int,
    rule: str,
    seed: int,
    *,
    reach: NDArray[np.float32] | None = None,
    twin_cosine: float | None = None,
) -> list[Choice]:
    """Choose images to caption.

    Args:
        candidates: Among which to choose.
        budget: How many, at most.
        rule: One of `RULES`.
        seed: The same seed and candidates give the same choice.
        reach: Each candidate's cosine to the nearest of the prior's samples [n]; for "uncertainty".
        twin_cosine: From which on two images are near twins; None: all may be chosen.

    Returns:
        The choices, in order. They are fewer than `budget` where all others are near twins.

    Raises:
        CorgiError: the rule is unknown or lacks what it reads, or the budget is below 1.
    """
    _check(budget, rule, reach)
    random = np.random.default_rng(seed)
    nearest = candidates.captioned.copy()  # to a caption, or to an image that was chosen
    centres = nearest if rule != UNCERTAINTY or reach is None else reach.copy()
    free = np.ones(len(candidates), dtype=bool)
    choices: list[Choice] = []
    while len(choices) < budget:
        if twin_cosine is not None:
            free &= nearest < twin_cosine
        if not free.any():
            break
        weights = free.astype(np.float64)
        if rule != RANDOM:
            weights *= (1.0 - centres).clip(min=0)
        row = _sampled_row(weights, free, random)
        reached = float(reach[row]) if rule == UNCERTAINTY and reach is not None else None
        choices.append(Choice(row, float(nearest[row]), reached))
        free[row] = False
        to_it = candidates.directions @ candidates.directions[row]
        np.maximum(nearest, to_it, out=nearest)
        np.maximum(centres, to_it, out=centres)
    return choices


def _sampled_row(
    weights: NDArray[np.float64], free: NDArray[np.bool_], random: np.random.Generator
) -> int:
    """A row with a probability in proportion to its weight; of the free ones if all are zero."""
    if not weights.any():
        weights = free.astype(np.float64)
    ends = np.cumsum(weights)
    return int(np.searchsorted(ends, random.random() * ends[-1], side="right"))


def _check(budget: int, rule: str, reach: NDArray[np.float32] | None) -> None:
    if budget < 1:
        raise CorgiError(f"{budget} images cannot be proposed", "ask for 1 or more")
    if rule not in RULES:
        raise CorgiError(
            f"there is no rule {rule!r} to choose images by", f"choose one of {', '.join(RULES)}"
        )
    if rule == UNCERTAINTY and reach is None:
        raise CorgiError(
            "what a prior cannot generate yet is known only of a prior, and there is none",
            f"caption some images first, by the rule {COVERAGE}, and train with `corgi run`",
        )
