"""The batches of one worker, read ahead of the steps that need them where that is of use.

On a GPU threads read the next batches and pin their memory while the GPU computes, and they are
copied without waiting. On a CPU reading and computing share the cores: each batch is read when its
step begins.

Images that are decoded online are decoded by processes, so that Python's lock is left to the thread
that keeps the GPU busy. Each batch is shared among all of them. They hold no more than the threads
have asked for, which is no more than two batches a thread.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
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
MOST_PROCESSES = 32  # by default


def batches(
    task: Task[Any],
    settings: TrainingSettings,
    rank: int,
    world_size: int,
    device: torch.device,
    first: int,
) -> Generator[Any]:
    """A worker's microbatches from step `first` on, in order and without end, on its device.

    Closing the generator ends its threads and processes.

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

    squares, processes = task.squares, loader_processes(settings, device)
    decoding: AbstractContextManager[None] = nullcontext()
    if squares is not None and squares.online and processes:
        decoding = squares.decoded_by(processes)
    elif not on_gpu:
        yield from (moved(read(microbatch), device) for microbatch in wanted())
        return
    with decoding, closing(in_order(read, wanted(), THREADS)) as reading:
        for batch in reading:
            yield moved(batch, device)


def loader_processes(settings: TrainingSettings, device: torch.device) -> int:
    """How many processes decode images for a worker; without any, its threads do.

    By default a GPU's worker has one for each of its cores but one, and a CPU's has none: there
    decoding and computing would only take the cores from each other.
    """
    if settings.loader_processes is not None:
        return settings.loader_processes
    return min(MOST_PROCESSES, max(1, torch.get_num_threads() - 1)) if device.type == "cuda" else 0


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
