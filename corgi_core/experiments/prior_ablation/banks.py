"""The bank of Gaussians of each start: the one place that knows how a `Start` becomes a bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corgi_core.config import GaussianSettings
from corgi_core.experiments.prior_ablation.arms import FITTED, RAW, UNIT, Start
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.gaussians.fit import fit_bank


def bank_of(
    start: Start,
    embeddings: NDArray[np.floating[Any]],
    encoder_dims: Sequence[int],
    settings: GaussianSettings,
    seed: int,
) -> GaussianBank:
    """The start's bank, fitted to the training images' embeddings [n, d]; not yet learned.

    k is scaled down so that a Gaussian has `settings.points_per_gaussian` points on average.
    """
    if not start.shift and start.scale != FITTED:
        return GaussianBank.standard(encoder_dims, scaled=start.scale != RAW)
    fitted, _ = fit_bank(
        embeddings, start.gaussians, encoder_dims, replace(settings, kappa=1.0), seed
    )
    if start.scale == UNIT:
        return fitted.shift_only()
    scaled = fitted.with_kappa(start.kappa)
    return scaled if start.shift else scaled.scale_only()
