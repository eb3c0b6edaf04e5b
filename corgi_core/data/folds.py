"""Folds for cross-fitting: parts of the training images, whose groups stay together.

A group is what the split keeps on one side: near twins, and variants of one thing. An image whose
twin is in another fold has not been left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corgi_core.data.splits import ranks_of

_SEED = 0


def folds_of(groups: NDArray[np.str_], folds: int) -> NDArray[np.int64]:
    """Each image's fold, 0 … folds − 1, by a hash of its group [n]: the same on any machine."""
    first_bytes = ranks_of(groups, _SEED).view(np.uint8).reshape(-1, 32)[:, 0]
    return first_bytes.astype(np.int64) % folds
