"""A timestep as a network reads it: sines and cosines of many periods (DDPM, appendix B)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LONGEST_PERIOD = 10_000


def timestep_features(t: Tensor, width: int) -> Tensor:
    """Timesteps t of any shape [...] → float32 [..., width], width being even."""
    half = width // 2
    rates = torch.exp(-math.log(LONGEST_PERIOD) * torch.arange(half, device=t.device) / half)
    angles = t.unsqueeze(-1).float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
