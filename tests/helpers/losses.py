"""A task's loss of some rows, as the training loop computes it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from corgi_core.training.loading import moved
from corgi_core.training.randomness import StepRandom
from corgi_core.training.task import Task


def loss_of(task: Task, model: nn.Module, rows: Tensor, random: StepRandom) -> dict[str, Tensor]:
    """Read the rows on the CPU, move them to the device of the random numbers, compute the loss."""
    reading = copy.copy(random)
    reading.device = reading._made_on = torch.device("cpu")
    return task.loss(model, moved(task.batch(rows, reading), random.device), random)
