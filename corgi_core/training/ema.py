"""The exponential moving average of a model's weights: what is evaluated, saved and used."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MovingAverage:
    """θ̄ ← γₙ θ̄ + (1 − γₙ) θ after update n = 1, 2, …, with γₙ = min(decay, n / (n + 9)).

    The warm-up of γ lets the average forget the initial weights: a run much shorter than
    1 / (1 − decay) updates averages over its last tenth. Buffers are taken over as they are.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards `model`'s weights."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        torch._foreach_lerp_(
            list(self.model.parameters()), list(model.parameters()), weight=1 - decay
        )
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)

    @torch.no_grad()
    def restore_buffers(self, model: nn.Module) -> None:
        """Give `model` the buffers of the last update: a skipped step's NaN lives on in none."""
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            buffer.copy_(average)
