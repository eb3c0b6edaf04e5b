"""What a model must say of itself to be trained."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from corgi_core.training.randomness import StepRandom

M = TypeVar("M", bound=nn.Module)


class Task(ABC, Generic[M]):
    """What is trained, on what: a dataclass of settings and folder-backed inputs.

    `M` is the class of the model, which `build` makes and `train` returns.

    Inputs count towards the run's identity by their `digest`. Heavy things are loaded lazily, by
    the worker that needs them: a task travels to workers as its fields, without what it has cached.
    """

    compares_samples: ClassVar[bool] = False  # the loss is no mean over samples, as in CLIP's

    @property
    @abstractmethod
    def rows(self) -> int:
        """Number of training samples."""

    @abstractmethod
    def build(self) -> M:
        """The freshly initialised model; torch has been seeded."""

    def prepare(self, model: M) -> None:
        """Set what is computed from the data, not learned. Before the first step only: afterwards
        it is part of the saved weights."""

    @abstractmethod
    def loss(self, model: nn.Module, rows: Tensor, random: StepRandom) -> dict[str, Tensor]:
        """Scalars to log, among them "loss", the mean over the samples `rows` (long [b], CPU).

        `model` may be wrapped for several workers, so it is only ever called. Random numbers
        come from `random` alone; `random.device` is where the model is.
        """

    @abstractmethod
    def evaluate(self, model: M) -> dict[str, float]:
        """Held-out metrics of the averaged model; called without gradients, in eval mode."""

    def __getstate__(self) -> dict[str, Any]:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # subclasses are dataclasses
        return {field.name: getattr(self, field.name) for field in fields}
