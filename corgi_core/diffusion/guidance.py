"""Classifier-free guidance (Ho and Salimans, 2022)."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Prediction = TypeVar("Prediction", Tensor, NDArray[np.float32], float)


def guided(uncond: Prediction, cond: Prediction, scale: float) -> Prediction:
    """Classifier-free guidance: uncond + scale · (cond − uncond).

    The predictions without and with the condition may be x̂_0, ε̂ or v̂, of any shape. A scale of 0
    gives `uncond`, 1 gives `cond`, more extrapolates. At a scale of 1, callers skip the
    unconditional prediction.

    Examples:
        >>> guided(1.0, 3.0, scale=2.0)
        5.0
    """
    return uncond + scale * (cond - uncond)
