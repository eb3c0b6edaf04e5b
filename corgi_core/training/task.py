"""The description of a training: data, model, loss and evaluation."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from corgi_core.streaming.squares import Squares
from corgi_core.training.randomness import StepRandom
from corgi_core.training.waiting import Meeting

M = TypeVar("M", bound=nn.Module)

ALONE = Meeting()  # the one worker of a training, or of no training


class Task(ABC, Generic[M]):
    """What is trained, and on what: a dataclass of settings and folder-backed inputs.

    `M` is the class of the model, which `build` makes and `train` returns.

    Inputs are part of the run's identity by their `digest`. A task is sent to workers as its
    fields, without what it has cached, so each worker loads what it needs.
    """

    @property
    def compares_samples(self) -> bool:
        """Whether the loss is no mean over samples, as CLIP's: microbatches cannot compute it."""
        return False

    @property
    @abstractmethod
    def rows(self) -> int:
        """Number of training samples."""

    @property
    def shard_rows(self) -> Sequence[int]:
        """Number of training samples in each shard, which sum to `rows`; by default, one shard."""
        return (self.rows,)

    @property
    def squares(self) -> Squares | None:
        """The images that `batch` reads; None where it reads none."""
        return None

    @abstractmethod
    def build(self) -> M:
        """The freshly initialised model; torch has been seeded."""

    def prepare_data(self, folder: Path) -> None:
        """Compute, or read from `folder`, what all workers need and one of them is to compute.

        The first worker calls it before all others, and all before `rows` is read. `folder`, the
        run's, need not exist; what is written there is whole or absent.
        """

    def prepare(self, model: M) -> None:
        """Set what is computed from the data and not learned.

        Called before the first step only; afterwards it is part of the saved weights.
        """

    def stored(self, model: M) -> dict[str, Tensor]:
        """The tensors that a finished run keeps: those of the model's folder, byte for byte.

        So the run's file and the folder's can be one. By default the model's own.
        """
        return dict(model.state_dict())

    def restore(self, model: M, tensors: Mapping[str, Tensor]) -> None:
        """Set a model's weights to those that `stored` has returned."""
        model.load_state_dict(tensors)

    @abstractmethod
    def batch(self, rows: Tensor, random: StepRandom) -> Any:
        """Some training samples, read for `loss`. Threads call it, several at a time.

        Args:
            rows: The samples, long [b] in 0 … `rows` − 1, numbered in the shards' order.
            random: The only source of random numbers, on the CPU.

        Returns:
            Tensors on the CPU: one, a tuple, a named tuple or a dict of them. None may be among
            them.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any, random: StepRandom) -> dict[str, Tensor]:
        """The loss of some training samples.

        Args:
            model: The model, possibly wrapped for several workers: call it, and do nothing else.
            batch: What `batch` returned, on the model's device.
            random: The only source of random numbers; `random.device` is the model's device.

        Returns:
            Scalars to log, among them "loss", the mean over the samples, to be minimised.
        """

    @abstractmethod
    def evaluate(self, model: M, workers: Meeting = ALONE) -> dict[str, float]:
        """Held-out metrics of the averaged model; called without gradients, in eval mode.

        All workers call it with the same model. What takes long is computed by `workers.each`, a
        fixed chunk of held-out samples at a time; all else by every worker.
        """

    def __getstate__(self) -> dict[str, Any]:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # subclasses are dataclasses
        return {field.name: getattr(self, field.name) for field in fields}
