"""A tiny regression, real in every part: the task that the training tests train."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from corgi_core.config import TrainingSettings
from corgi_core.errors import CorgiError
from corgi_core.training.randomness import StepRandom
from corgi_core.training.task import ALONE, Task
from corgi_core.training.waiting import Meeting

SETTINGS = TrainingSettings(
    steps=60, batch_size=8, learning_rate=1e-2, warmup_steps=10, ema_decay=0.9,
    checkpoint_every=10, evaluate_every=20, precision="fp32",
)  # fmt: skip


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two models have the same tensors, bit for bit."""
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def fill_disk(ballast: Path, left: int) -> None:
    """Write `ballast` until its disk is full, then give `left` bytes back."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)) == 4096:
            pass
    os.truncate(ballast, max(0, ballast.stat().st_size - left))


class Network(nn.Module):
    """A convolution in channels_last, tied weights and, unless `plain`, dropout and buffers."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.Identity() if plain else nn.BatchNorm2d(6)
        self.dropout = nn.Identity() if plain else nn.Dropout(0.1)
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.convolution(x)).relu().mean(dim=(2, 3))
        return self.second(self.dropout(self.first(hidden).relu()))


@dataclass(frozen=True)
class TinyTask(Task):
    """Images of noise → functions of their channel means. Its fields are the faults that happen."""

    rows: int = 100
    plain: bool = False  # nothing that depends on how the batch is shared among workers
    spoil_from: int = 10**9  # the loss is infinite from this step on
    die_at: int = -1  # step at which the process kills itself with SIGKILL …
    died: Path | None = field(default=None, compare=False)  # … unless this file is there
    spoilt_row: int = -1  # the image that is not a number
    fill_at: int = -1  # step at which the disk is filled …
    ballast: Path | None = field(default=None, compare=False)  # … with this file …
    left: int = field(default=0, compare=False)  # … but for so many bytes
    attempts: Path | None = field(default=None, compare=False)  # a dot for every model built
    read_by: Path | None = field(default=None, compare=False)  # a line for every unpickling process
    wide: int = 0  # random numbers of a sample beside its image's, to be in several chunks
    pause: float = field(default=0.0, compare=False)  # seconds a step, to be killed in
    slow: float = field(default=0.0, compare=False)  # seconds an evaluation, and to prepare data
    die_evaluating: bool = field(default=False, compare=False)  # by SIGKILL

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.read_by:
            with self.read_by.open("a") as file:
                file.write(f"{os.getpid()}\n")

    @cached_property
    def _data(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.rows + 20, 3, 4, 4, generator=generator)
        means = images.mean(dim=(2, 3))
        images[self.spoilt_row : self.spoilt_row + 1] = torch.nan
        return images, torch.cat([means.sin(), means.square()], dim=1)

    def prepare_data(self, folder: Path) -> None:
        if self.slow and not (folder / "prepared").exists():
            time.sleep(self.slow)
            (folder / "prepared").touch()

    def build(self) -> nn.Module:
        if self.attempts:
            with self.attempts.open("a") as file:
                file.write(".")
        return Network(self.plain)

    def batch(self, rows: Tensor, random: StepRandom) -> tuple[Tensor, Tensor]:
        images, targets = (values[rows] for values in self._data)
        return images, targets

    def loss(
        self, model: nn.Module, batch: tuple[Tensor, Tensor], random: StepRandom
    ) -> dict[str, Tensor]:
        if random.step == self.die_at and self.died and not self.died.exists():
            self.died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if random.step == self.fill_at and self.ballast and not self.ballast.exists():
            fill_disk(self.ballast, self.left)
        time.sleep(self.pause)
        images, targets = batch
        images = images + 0.1 * random.normal(3, 4, 4)
        if self.wide:
            images = images + random.normal(self.wide).mean(dim=1).view(-1, 1, 1, 1)
        error = model(images) - targets
        if random.step >= self.spoil_from:
            error = error / 0
        return {"loss": error.square().mean(), "absolute": error.abs().mean()}

    def evaluate(self, model: nn.Module, workers: Meeting = ALONE) -> dict[str, float]:
        images, targets = (values[self.rows :] for values in self._data)

        def squares(first: int) -> float:
            if first == 0:  # the first worker's
                if self.die_evaluating:
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(self.slow)
            rows = slice(first, first + 4)
            return (model(images[rows]) - targets[rows]).square().sum().item()

        total = sum(workers.each(squares, range(0, len(images), 4)))
        return {"held_out": total / targets.numel()}


def numbered(memory: dict[str, int], item: int) -> tuple[int, int, int]:
    """(item, the process, how many items it has had); negative ones are refused."""
    if item < 0:
        raise CorgiError(f"{item} is negative", "count upwards")
    memory["items"] = memory.get("items", 0) + 1
    return item, os.getpid(), memory["items"]
