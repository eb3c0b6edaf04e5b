"""A training that ends in the middle, as a killed process does."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor
from torch.nn import Module

from corgi_core.decoders.task import DecoderTask
from corgi_core.training.randomness import StepRandom

T = TypeVar("T", bound=DecoderTask)


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def stopping(kind: type[T], at: int) -> type[T]:
    """The same kind of training, but its step `at` raises StoppedError."""

    class Stopping(kind):
        def loss(self, model: Module, batch: Any, random: StepRandom) -> dict[str, Tensor]:
            if random.step == at:
                raise StoppedError
            return super().loss(model, batch, random)

    Stopping.__qualname__ = kind.__qualname__  # the same training
    return Stopping
