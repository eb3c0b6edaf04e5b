"""Statistics of the global batch, where several workers have a part of it each."""

from __future__ import annotations

import torch
from torch import Tensor


def global_mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and number of values [n], those of all workers together; no gradient flows through."""
    totals = torch.stack([values.detach().sum(), values.new_tensor(len(values))])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(totals)
    return totals[0] / totals[1], totals[1]
