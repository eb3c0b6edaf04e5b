"""The exponential moving average of a model's weights, which is evaluated, saved and used."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Generic

import torch
from torch import Tensor, nn

from corgi_core.training.task import M


class MovingAverage(Generic[M]):
    """θ̄ ← γₙ θ̄ + (1 − γₙ) θ after update n = 1, 2, …, with γₙ = min(decay, n / (n + 9)).

    The warm-up of γ lets the average forget the initial weights: a run much shorter than
    1 / (1 − decay) updates averages over its last tenth. Buffers are copied. Frozen parameters are
    their own average: both models share them in memory.
    """

    def __init__(self, model: M, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self._frozen = {name for name, p in parameters.items() if not p.requires_grad}
        shared = {id(parameters[name]): parameters[name] for name in self._frozen}
        self.model: M = copy.deepcopy(model, shared).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards `model`'s weights."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        averages, weights = zip(*((a, p) for a, p in pairs if a is not p), strict=True)
        torch._foreach_lerp_(averages, weights, weight=1 - decay)
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)

    @torch.no_grad()
    def restore_buffers(self, model: nn.Module) -> None:
        """Give `model` the buffers of the last update, without the NaN that a skipped step left."""
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            buffer.copy_(average)

    def tensors(self) -> dict[str, Tensor]:
        """Averages and buffers by name, without frozen parameters, which the model itself has."""
        named = self.model.state_dict().items()
        return {name: tensor for name, tensor in named if name not in self._frozen}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`; what is frozen stays as the model has it."""
        named = self.model.state_dict()
        self.model.load_state_dict({name: named[name] for name in self._frozen} | dict(tensors))
