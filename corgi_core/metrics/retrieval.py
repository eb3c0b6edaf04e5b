"""Recall@k: whether the true image is among the k nearest of all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RECALL_RANKS = (1, 5)  # k


def recalls(nearer: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """Recall at each of `RECALL_RANKS`, caption by caption [n], by its name in scores.

    Args:
        nearer: How many other images are at least as near as the true one [n].

    Examples:
        >>> {name: found.tolist() for name, found in recalls(np.array([0, 4, 5])).items()}
        {'recall_at_1': [True, False, False], 'recall_at_5': [True, True, False]}
    """
    return {f"recall_at_{rank}": nearer < rank for rank in RECALL_RANKS}
