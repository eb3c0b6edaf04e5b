"""The gradient of one step: each worker's microbatches, averaged over the workers.

W workers that accumulate A microbatches each divide the batch into W·A parts: microbatch i of
worker r has the rows and the random numbers of part r·A + i. So W and A change the result by
rounding alone, except through layers that read the whole batch or sample by themselves (batch norm,
dropout).
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from corgi_core.config import TrainingSettings
from corgi_core.errors import CorgiError
from corgi_core.training.loading import batches
from corgi_core.training.precision import InPrecision
from corgi_core.training.randomness import StepRandom, seed_of
from corgi_core.training.task import Task


class Compiled(nn.Module):
    """A model's call through torch.compile: the first step is slow, those after it are faster.

    The model, its parameters and their names stay as they are. The first call raises CorgiError
    where there is no compiler to build kernels with.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._call = torch.compile(model)

    def forward(self, *inputs: Any) -> Any:
        """The model's outputs."""
        from torch._dynamo.exc import BackendCompilerFailed

        try:
            return self._call(*inputs)
        except BackendCompilerFailed as failure:
            cause = str(failure.inner_exception).partition("\n")[0]
            raise CorgiError(
                f"the model cannot be compiled: {cause}",
                "install a C++ compiler such as g++, or train with compile=False",
            ) from failure


class BatchGradient:
    """Writes the gradient of the mean loss over a step's global batch to the model's parameters.

    Steps are computed one after the other, from `first` on. `close` ends the reading of batches.
    """

    def __init__(
        self,
        task: Task[Any],
        model: nn.Module,
        settings: TrainingSettings,
        rank: int,
        world_size: int,
        device: torch.device,
        first: int = 0,
    ) -> None:
        self._task, self._model, self._settings = task, model, settings
        self._rank, self._world, self._device = rank, world_size, device
        self._batches = batches(task, settings, rank, world_size, device, first)
        network, self._synchronised = model, None
        if world_size > 1:
            network = self._synchronised = DistributedDataParallel(model)
        if settings.compile:
            network = Compiled(network)
        self._network = InPrecision(network, settings.precision, device)

    def compute(self, step: int) -> dict[str, float] | None:
        """The losses' means over the batch, the same on all workers, after clipping the gradient.

        None, again on all workers, if a loss or the gradient is not finite anywhere.
        """
        chunks = self._settings.accumulation
        losses: dict[str, Tensor] = {}
        for chunk in range(chunks):
            with self._accumulating(last=chunk == chunks - 1):
                parts = self._losses_of(step, self._rank * chunks + chunk)
                torch.autograd.backward(parts["loss"] / chunks)
            for name, value in parts.items():
                losses[name] = losses.get(name, 0) + value.detach().float() / chunks
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        values = torch.stack([*losses.values(), norm])
        if self._synchronised is not None:
            torch.distributed.all_reduce(values)
            values /= self._world
        *means, length = values.tolist()  # the step's one wait for the device
        if not all(map(math.isfinite, (*means, length))):
            return None
        if length > 0.99 * self._settings.clip_norm:  # else it multiplies by 1
            nn.utils.clip_grads_with_norm_(self._model.parameters(), self._settings.clip_norm, norm)
        return dict(zip(losses, means, strict=True))

    def _losses_of(self, step: int, part: int) -> dict[str, Tensor]:
        settings, parts = self._settings, self._world * self._settings.accumulation
        _seed(self._device, seed_of("layers", settings.seed, step, part))  # dropout, if any
        random = StepRandom(settings.seed, step, settings.batch_size, part, parts, self._device)
        return self._task.loss(self._network, next(self._batches), random)

    def close(self) -> None:
        """End the threads that read ahead."""
        self._batches.close()

    def _accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are averaged over the workers once, with those of the last microbatch."""
        if last or self._synchronised is None:
            return nullcontext()
        return self._synchronised.no_sync()


def _seed(device: torch.device, seed: int) -> None:
    """As torch.manual_seed, without the time that it spends on devices that are not in use."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
