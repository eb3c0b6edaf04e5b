"""How far new embeddings lie from those that a model has learned from.

With enough data any two weeks differ significantly, so each measure has two numbers: how large the
difference is, its bias taken off, and how sure it is that there is one at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 400
RESAMPLES = 200
HALF = 0.5  # an image in every cluster of a share that is compared: no share is zero


class MeanShift(NamedTuple):
    """How far the means of two sets are apart.

    Attributes:
        size: The distance of the means, in units of the root mean square distance of an embedding
            to its own set's mean: 0 for one distribution.
        z: How many standard deviations the squared distance is above its mean over random splits
            of both sets together: below 3 for one distribution.
    """

    size: float
    z: float


def mean_shift(
    reference: NDArray[np.floating[Any]], new: NDArray[np.floating[Any]], seed: int = 0
) -> MeanShift:
    """How far the mean of new embeddings lies from the reference's.

    The squared distance of two samples' means is tr(Σ)(1/n + 1/m) on average when they are of one
    distribution (Bai and Saranadasa, 1996), which is taken off. Its spread is that over random
    permutations, so no assumption about Σ is made.

    Args:
        reference: Embeddings [n, d], n ≥ 2.
        new: Embeddings [m, d], m ≥ 2.
        seed: Of the permutations.

    Examples:
        >>> normal = np.random.default_rng(0).normal(size=(2, 500, 8))
        >>> round(mean_shift(normal[0], normal[1] + 1).size, 1)  # (1, …, 1) has √8 of √8
        1.0
    """
    both = np.concatenate([reference, new]).astype(np.float64)
    both -= both.mean(axis=0)
    n, m = len(reference), len(new)
    gram = both @ both.T
    weights = np.concatenate([np.full(n, -1 / n), np.full(m, 1 / m)])
    random = np.random.default_rng(seed)
    permuted = random.permuted(np.tile(weights, (PERMUTATIONS, 1)), axis=1)
    by_chance = np.einsum("pi,pi->p", permuted @ gram, permuted)
    apart = float(weights @ gram @ weights)
    within = sum(
        float(np.square(rows - rows.mean(axis=0)).sum()) for rows in (both[:n], both[n:])
    ) / (n + m - 2)  # tr(Σ)
    unbiased = max(0.0, apart - within * (1 / n + 1 / m))
    return MeanShift(
        float(np.sqrt(unbiased / within)),
        float((apart - by_chance.mean()) / by_chance.std()),
    )


class Occupancy(NamedTuple):
    """How differently two sets are spread over the same clusters.

    Attributes:
        psi: The population stability index Σ (q − p) ln(q/p), what chance gives taken off.
        p: The probability of such a difference by chance (χ²).
    """

    psi: float
    p: float


def occupancy(
    reference: NDArray[np.integer[Any]], new: NDArray[np.integer[Any]], k: int
) -> Occupancy:
    """How differently new embeddings are spread over k Gaussians.

    The index is that of credit scoring (Siddiqi, 2006), where 0.1 to 0.25 is a moderate shift and
    more a large one. Of two samples of one distribution it is about (k − 1)(1/n + 1/m).

    Args:
        reference: The numbers of the Gaussians of the reference's embeddings [n].
        new: Those of the new ones [m].
        k: The number of Gaussians.
    """
    from scipy.stats import chi2_contingency

    counts = np.stack([np.bincount(each, minlength=k) for each in (reference, new)])
    there = counts[:, counts.sum(axis=0) > 0]
    if there.shape[1] < 2:
        return Occupancy(0.0, 1.0)
    p, q = ((row + HALF) / (row + HALF).sum() for row in there)
    chance = (there.shape[1] - 1) * (1 / len(reference) + 1 / len(new))
    psi = max(0.0, float(((q - p) * np.log(q / p)).sum()) - chance)
    return Occupancy(psi, float(chi2_contingency(there).pvalue))


class GapChange(NamedTuple):
    """How much the modality gap has changed.

    Attributes:
        before: The reference's gap, from 0 to 2.
        after: The new pairs' gap.
        low: The low end of the 95 % interval of after − before.
        high: The high end.
    """

    before: float
    after: float
    low: float
    high: float


def gap_change(
    reference: tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]],
    new: tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]],
    encoder_dims: Sequence[int],
    seed: int = 0,
) -> GapChange:
    """How much the gap between images and captions has changed (Liang et al., 2022).

    Args:
        reference: Image embeddings [n, d] and text embeddings [n', d].
        new: The same of the new data.
        encoder_dims: Widths of the encoders, over which the gap is averaged.
        seed: Of the bootstrap's resamples, of images and captions each.
    """
    random = np.random.default_rng(seed)
    gaps, resampled = list[float](), list[NDArray[np.float64]]()
    for pair in (reference, new):
        means = []
        for rows in pair:
            units = _units(rows, encoder_dims)
            n = len(units)
            counts = random.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n
            means.append(np.concatenate([units.mean(axis=0, keepdims=True), counts @ units]))
        found = _gaps(means[0] - means[1], encoder_dims)
        gaps.append(float(found[0]))
        resampled.append(found[1:])
    low, high = np.quantile(resampled[1] - resampled[0], (0.025, 0.975)).tolist()
    return GapChange(gaps[0], gaps[1], low, high)


def _units(rows: NDArray[np.floating[Any]], encoder_dims: Sequence[int]) -> NDArray[np.float64]:
    """Every encoder's part of the embeddings [n, d] at length 1."""
    parts = np.split(rows.astype(np.float64), np.cumsum(encoder_dims)[:-1], axis=1)
    return np.concatenate([p / np.linalg.norm(p, axis=1, keepdims=True) for p in parts], axis=1)


def _gaps(apart: NDArray[np.float64], encoder_dims: Sequence[int]) -> NDArray[np.float64]:
    parts = np.split(apart, np.cumsum(encoder_dims)[:-1], axis=1)
    means: NDArray[np.float64] = np.mean([np.linalg.norm(p, axis=1) for p in parts], axis=0)
    return means
