"""Steps of `corgi_core.training.loop.train`, without its log, checkpoints and evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from corgi_core.config import TrainingSettings
from corgi_core.training.adamw import AdamW
from corgi_core.training.ema import MovingAverage
from corgi_core.training.gradient import BatchGradient
from corgi_core.training.task import Task


class TrainingSteps:
    """The training loop's own parts around a task, on one worker.

    Args:
        task: What is trained.
        settings: Its batch, precision and optimiser.
        model: What `task.build()` made and `task.prepare()` has set, on the device.
        device: Where it is trained.
    """

    def __init__(
        self,
        task: Task[Any],
        settings: TrainingSettings,
        model: nn.Module,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = model.train()
        self._average = MovingAverage(model, settings.ema_decay)
        self._optimizer = AdamW(model, settings)
        self._gradient = BatchGradient(task, model, settings, 0, 1, torch.device(device))
        self._rate, self._steps = settings.learning_rate / 100, 0

    def step(self) -> None:
        """One optimiser step: forward, backward, update, moving average."""
        self._optimizer.zero_grad()
        assert self._gradient.compute(self._steps) is not None
        self._optimizer.step(self._rate)
        self._average.update(self.model)
        self._steps += 1
