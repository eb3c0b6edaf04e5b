"""The batches of one worker, read ahead of the steps that need them where that is of use.

On a GPU threads read the next batches and pin their memory while the GPU computes, and they are
copied without waiting. On a CPU reading and computing share the cores: each batch is read when its
step begins.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor

from corgi_core.config import TrainingSettings
from corgi_core.data.prefetch import in_order
from corgi_core.training.order import TrainingOrder
from corgi_core.training.randomness import StepRandom, seed_of
from corgi_core.training.task import Task

THREADS = 4  # that read for a GPU


def batches(
    task: Task[Any],
    settings: TrainingSettings,
    rank: int,
    world_size: int,
    device: torch.device,
    first: int,
) -> Generator[Any]:
    """A worker's microbatches from step `first` on, in order and without end, on its device.

    Closing the generator ends its threads.

    Args:
        task: Reads the samples.
        settings: Batch, microbatches, window and seed.
        rank: The worker's number.
        world_size: The number of workers.
        device: Where the batches are needed.
        first: The step to begin with.
    """
    order = TrainingOrder(
        task.shard_rows, settings.batch_size, settings.seed, settings.shuffle_window
    )
    chunks, parts = settings.accumulation, world_size * settings.accumulation
    size, on_gpu = settings.batch_size // parts, device.type == "cuda"
    seed = seed_of("batch", settings.seed)

    def wanted() -> Iterator[tuple[int, int]]:
        for step in count(first):
            yield from ((step, rank * chunks + chunk) for chunk in range(chunks))

    def read(microbatch: tuple[int, int]) -> Any:
        step, part = microbatch
        rows = order.rows_of(step)[part * size : (part + 1) * size]
        random = StepRandom(seed, step, settings.batch_size, part, parts)
        batch = task.batch(rows, random)
        return pinned(batch) if on_gpu else batch

    if not on_gpu:
        yield from (moved(read(microbatch), device) for microbatch in wanted())
        return
    reading = in_order(read, wanted(), THREADS)
    try:
        for batch in reading:
            yield moved(batch, device)
    finally:
        reading.close()


def pinned(batch: Any) -> Any:
    """The batch in memory from which a GPU copies without waiting."""
    return _mapped(batch, Tensor.pin_memory)


def moved(batch: Any, device: torch.device) -> Any:
    """The batch on the device."""
    return _mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))


def _mapped(batch: Any, function: Any) -> Any:
    """The batch with function(tensor) for each of its tensors."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, dict):
        return {name: _mapped(value, function) for name, value in batch.items()}
    if isinstance(batch, tuple):
        values = [_mapped(value, function) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else tuple(values)
    if batch is None:
        return None
    raise TypeError(f"a batch holds tensors, not {type(batch).__name__}")
