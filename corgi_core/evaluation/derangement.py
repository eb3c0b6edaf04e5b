"""Permutations without a fixed point: each caption gets the image of another one."""

from __future__ import annotations

import torch
from torch import Tensor


def derangement(n: int, seed: int = 0) -> Tensor:
    """A permutation [n] of 0 … n−1 without a fixed point, one random cycle; n ≥ 2."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    permutation = torch.empty_like(order)
    permutation[order] = order.roll(1)
    return permutation
