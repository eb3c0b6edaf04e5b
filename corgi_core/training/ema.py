"""The exponential moving average of a model's weights, which is evaluated, saved and used."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Generic

import torch
from torch import Tensor

from corgi_core.training.task import M


class MovingAverage(Generic[M]):
    """θ̄ ← γₙ θ̄ + (1 − γₙ) θ after update n = 1, 2, …, with γₙ = min(decay, n / (n + 9)).

    The warm-up of γ lets the average forget the initial weights: a run much shorter than
    1 / (1 − decay) updates averages over its last tenth. Buffers are copied. Frozen parameters are
    their own average: both models share them in memory. The model's tensors are changed in
    place, never replaced.
    """

    def __init__(self, model: M, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self._frozen = {name for name, p in parameters.items() if not p.requires_grad}
        shared = {id(parameters[name]): parameters[name] for name in self._frozen}
        self.model: M = copy.deepcopy(model, shared).eval().requires_grad_(False)
        # found once, not in every step
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        learned = [(average, weight) for average, weight in pairs if average is not weight]
        self._averages: list[Tensor] = [average for average, _ in learned]
        self._weights: list[Tensor] = [weight for _, weight in learned]
        self._buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the model's weights."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        torch._foreach_lerp_(self._averages, self._weights, weight=1 - decay)
        for average, buffer in self._buffers:
            average.copy_(buffer)

    @torch.no_grad()
    def restore_buffers(self) -> None:
        """Give the model the buffers of the last update, without a skipped step's NaN."""
        for average, buffer in self._buffers:
            buffer.copy_(average)

    def tensors(self) -> dict[str, Tensor]:
        """Averages and buffers by name, without frozen parameters, which the model itself has."""
        named = self.model.state_dict().items()
        return {name: tensor for name, tensor in named if name not in self._frozen}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`; what is frozen stays as the model has it."""
        named = self.model.state_dict()
        self.model.load_state_dict({name: named[name] for name in self._frozen} | dict(tensors))
