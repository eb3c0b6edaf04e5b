"""What to set lower where a training runs out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from corgi_core.config import TrainingSettings
from corgi_core.out_of_memory import out_of_memory_explained
from corgi_core.training.task import Task


@contextmanager
def training_memory_explained(
    task: Task[Any], settings: TrainingSettings, workers: int, name: str
) -> Iterator[None]:
    """Turn running out of memory in a training into a CorgiError that names the settings."""
    share = settings.batch_size // workers
    at_once = share // settings.accumulation
    doing = f"training {name} with {at_once} samples of a worker at once"
    with out_of_memory_explained(doing, _remedy(task, settings, share)):
        yield


def _remedy(task: Task[Any], settings: TrainingSettings, share: int) -> str:
    """The settings of the training that take less memory, those first that change no result."""
    accumulation, batch = settings.accumulation, settings.batch_size
    ways = []
    more = next((n for n in range(accumulation + 1, share + 1) if share % n == 0), None)
    if more and not task.compares_samples:
        ways.append(f"raise its accumulation from {accumulation} to {more}")
    if getattr(getattr(task, "settings", None), "checkpoint_activations", None) is False:
        ways.append("set checkpoint_activations to true")
    ways.append(f"lower its batch_size, which is {batch}, or train on more workers")
    return "; or ".join(ways)
