"""The bank of Gaussians of each start: the one place that knows how a `Start` becomes a bank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corgi_core.gaussians import GaussianBank, fit_bank
from corgi_core.presets import GaussianSettings
from corgi_core.study.arms import FITTED, RAW, Start


def bank_of(
    start: Start,
    embeddings: NDArray[np.floating[Any]],
    blocks: Sequence[int],
    settings: GaussianSettings,
    seed: int,
) -> GaussianBank:
    """The start's bank, fitted to the training images' embeddings [n, d].

    k is scaled down so that a Gaussian has `settings.points_per_gaussian` points on average.
    """
    k = max(1, min(start.gaussians, len(embeddings) // settings.points_per_gaussian))
    fitted = fit_bank(embeddings, k, blocks, kappa=1.0, seed=seed)
    means = fitted.means if start.shift else torch.zeros_like(fitted.means)
    widths = torch.tensor(blocks, dtype=torch.float32)
    if start.scale == FITTED:
        deviations = start.kappa * fitted.deviations
    elif start.scale == RAW:
        deviations = widths.sqrt().repeat_interleave(widths.long()).expand_as(means)
    else:
        deviations = torch.ones_like(means)
    return GaussianBank(means, deviations, fitted.sizes, blocks, kappa=start.kappa)
