"""What a model must say of itself to be trained."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from corgi_core.training.randomness import StepRandom


class Task(Protocol):
    """What is trained, on what: a picklable dataclass of settings and folder-backed inputs.

    Inputs count towards the run's identity by their `digest`. Heavy things are loaded lazily.
    """

    @property
    def rows(self) -> int:
        """Number of training samples."""

    def build(self) -> nn.Module:
        """The freshly initialised model; torch has been seeded."""

    def loss(self, model: nn.Module, rows: Tensor, random: StepRandom) -> dict[str, Tensor]:
        """Scalars to log, among them "loss", the mean over the samples `rows` (long [b], CPU).

        `model` may be wrapped for several workers, so it is only ever called. Random numbers
        come from `random` alone; `random.device` is where the model is.
        """

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Held-out metrics of the averaged model; called without gradients, in eval mode."""
