"""The one training loop: AdamW, warm-up and cosine decay, clipping, moving average, exact resume.

A model is trained by describing it as a `Task`. Batches and random numbers are functions of
(seed, step), so a run that was killed and continued ends bit for bit where an uninterrupted one
does, and one on more workers ends there up to rounding.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from upath import UPath

from corgi_core import progress
from corgi_core.config import TrainingSettings
from corgi_core.errors import CorgiError
from corgi_core.io import disk_cache
from corgi_core.io.locks import exclusive_lock
from corgi_core.training.adamw import AdamW
from corgi_core.training.checkpoint import (
    Checkpoint,
    clear_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from corgi_core.training.ema import MovingAverage
from corgi_core.training.gradient import BatchGradient
from corgi_core.training.memory import keep_freed_memory
from corgi_core.training.metrics_log import Entry, MetricsLog, headline
from corgi_core.training.needed_memory import training_memory_explained
from corgi_core.training.randomness import seed_of
from corgi_core.training.run_folder import (
    TrainingResult,
    explain_full_disk,
    finish,
    finished_training,
    prepare_run_folder,
)
from corgi_core.training.task import M, Task
from corgi_core.training.waiting import Meeting

LOG_EVERY = 10  # steps
SKIPS_IN_A_ROW = 10  # steps whose loss or gradients are not finite, before the run is stopped
LOCK_PATIENCE = 30.0  # seconds for a killed job's last worker to leave the folder

log = logging.getLogger(__name__)


@dataclass
class _Counters:
    step: int = 0
    updates: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """The rate of step 0, 1, …: linear warm-up to `learning_rate`, then cosine decay to 0."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    part = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * part))


def train(
    task: Task[M],
    settings: TrainingSettings,
    folder: Path | UPath,
    *,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    name: str = "training",
    on_saved: Callable[[Path], None] = lambda folder: None,
) -> TrainingResult[M]:
    """Train `task` in `folder`, from the newest checkpoint there if there is one.

    A run that is finished there is returned as it is. Every worker calls this; with more than one,
    torch's process group is initialised before, and all workers see the same `folder`, or begin
    with the same content in folders of their own.

    Args:
        task: What is trained, on what.
        settings: Steps, batch size, learning rate and what else decides the result.
        folder: The run's folder, on a file system.
        rank: The worker's number, 0 … `world_size` − 1; 0 writes the files.
        world_size: The number of workers.
        device: Where this worker computes.
        name: What progress is reported under.
        on_saved: Called by worker 0 with `folder`, whenever a checkpoint or the result is in it.

    Returns:
        The averaged model in eval mode, with the last metrics.

    Raises:
        CorgiError: the folder belongs to another training, another process trains there, there are
            no samples, the batch cannot be divided among the workers, the disk is full, memory runs
            out, the model cannot be compiled, or losses are not finite for several steps in a row.
    """
    folder = prepare_run_folder(task, settings, folder, world_size, write=rank == 0)
    device = torch.device(device)
    disk_cache.budget = settings.cache_gigabytes
    busy = f"another process is training in {folder}"
    lock = exclusive_lock(folder / "lock", busy, LOCK_PATIENCE) if rank == 0 else nullcontext()
    with explain_full_disk(folder), lock:
        meeting = Meeting(world_size, rank)
        meeting.wait("prepares the data and locks the run folder")
        if rank > 0:
            task.prepare_data(folder)
        needed = training_memory_explained(task, settings, world_size, name)
        with keep_freed_memory(), needed, ExitStack() as at_the_end:
            return _train(
                task, settings, folder, rank, world_size, device, name, meeting, on_saved,
                at_the_end,
            )  # fmt: skip


def _train(
    task: Task[M],
    settings: TrainingSettings,
    folder: Path,
    rank: int,
    world_size: int,
    device: torch.device,
    name: str,
    meeting: Meeting,
    on_saved: Callable[[Path], None],
    at_the_end: ExitStack,
) -> TrainingResult[M]:
    if finished := finished_training(task, folder, device):
        return finished

    torch.manual_seed(settings.seed)
    model = task.build()
    checkpoint = load_checkpoint(folder)
    if checkpoint is None:
        task.prepare(model)
    model.to(device)
    average = MovingAverage(model, settings.ema_decay)
    optimizer = AdamW(model, settings)
    counters = _resumed(folder, checkpoint, model, average, optimizer)
    if world_size > 1:
        _expect_all_at(counters.step, device)
    gradient = BatchGradient(task, model, settings, rank, world_size, device, counters.step)
    at_the_end.callback(gradient.close)

    if rank == 0:
        clear_checkpoints(folder, after=counters.step)
        metrics_log = MetricsLog(folder / "metrics.jsonl", counters.step)
    model.train()
    means = _Means()
    metrics: dict[str, float] = {}

    for step in range(counters.step, settings.steps):
        began = time.monotonic()
        rate = learning_rate(settings, step)
        optimizer.zero_grad()
        losses = gradient.compute(step)
        if losses is None:
            average.restore_buffers(model)
            _skip(counters, settings, step)
        else:
            optimizer.step(rate)
            average.update(model)
            counters.skipped_in_a_row = 0
        counters.step = done = step + 1
        counters.seconds += (seconds := time.monotonic() - began)
        means.add(losses, settings.batch_size, seconds)

        last = done == settings.steps
        evaluating = last or done % settings.evaluate_every == 0
        saving = not last and done % settings.checkpoint_every == 0
        held_out: dict[str, float] = {}
        if evaluating:
            meeting.share_buffers(average.model)
            torch.manual_seed(seed_of("evaluate", settings.seed))
            with torch.no_grad():
                held_out = task.evaluate(average.model, meeting)
        if rank == 0 and (evaluating or saving or done % LOG_EVERY == 0):
            entry: Entry = {"step": done, "time": time.time(), "seconds": counters.seconds}
            trained, per_second = means.taken()
            entry |= trained | {"learning_rate": rate, "skipped": counters.skipped}
            entry |= {"samples_per_second": per_second}
            if evaluating:
                metrics = trained | held_out
                entry |= held_out
            metrics_log.write(entry)
            progress.report(headline(name, entry), done, settings.steps)
        if rank == 0 and saving:
            counters.updates = average.updates
            save_checkpoint(folder, _checkpoint(model, average, optimizer, counters))
            on_saved(folder)
        if evaluating or saving:
            meeting.wait(f"{'evaluates' if evaluating else 'saves'} after step {done}")

    result = TrainingResult(
        average.model, settings.steps, metrics, folder / "metrics.jsonl", counters.seconds,
        counters.skipped, already_finished=False,
    )  # fmt: skip
    if rank == 0:
        finish(task, folder, result)
        on_saved(folder)
    return result


def _expect_all_at(step: int, device: torch.device) -> None:
    """CorgiError unless all workers start at the same step."""
    steps = torch.tensor([step, -step], device=device)
    torch.distributed.all_reduce(steps, torch.distributed.ReduceOp.MAX)
    if steps[0] != -steps[1]:
        raise CorgiError(
            "the workers do not see the same checkpoints",
            "put the run folder on a file system that all of them share",
        )


def _skip(counters: _Counters, settings: TrainingSettings, step: int) -> None:
    counters.skipped += 1
    counters.skipped_in_a_row += 1
    if counters.skipped_in_a_row >= SKIPS_IN_A_ROW:
        raise CorgiError(
            f"the loss or its gradients were not finite for {SKIPS_IN_A_ROW} steps up to {step}",
            f"lower the learning rate ({settings.learning_rate:g}) or use precision fp32",
        )


def _resumed(
    folder: Path,
    checkpoint: Checkpoint | None,
    model: nn.Module,
    average: MovingAverage[Any],
    optimizer: AdamW,
) -> _Counters:
    if checkpoint is None:
        return _Counters()
    log.info("the run in %s continues from step %d", folder, checkpoint.step)
    model.load_state_dict(checkpoint.parts["model"])
    average.load_tensors(checkpoint.parts["ema"])
    optimizer.load_tensors(checkpoint.parts["optimizer"])
    counters = _Counters(**checkpoint.state)
    average.updates = counters.updates
    return counters


def _checkpoint(
    model: nn.Module,
    average: MovingAverage[Any],
    optimizer: AdamW,
    counters: _Counters,
) -> Checkpoint:
    parts = {
        "model": model.state_dict(),
        "ema": average.tensors(),
        "optimizer": optimizer.tensors(),
    }
    return Checkpoint(counters.step, parts, asdict(counters))


class _Means:
    """Mean losses and samples per second since they were last read; a skipped step has none."""

    def __init__(self) -> None:
        self._forget()

    def add(self, losses: Mapping[str, float] | None, samples: int, seconds: float) -> None:
        for name, value in (losses or {}).items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        if losses is not None:
            self._steps += 1
            self._samples += samples
        self._seconds += seconds

    def taken(self) -> tuple[dict[str, float], float]:
        means = {name: total / self._steps for name, total in self._sums.items()}
        per_second = self._samples / max(self._seconds, 1e-9)
        self._forget()
        return means, per_second

    def _forget(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = self._samples = 0
        self._seconds = 0.0
