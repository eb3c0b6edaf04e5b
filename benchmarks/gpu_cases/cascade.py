"""A training step of the cascade's stages of 64 and 256 pixels, beside a plain diffusers loop.

Both have the same UNet and conditions. Ours is the parts of Corgi's training loop; the other is
what diffusers' example of training a UNet does in a step, without reading images. Needs diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gpu_cases.case import Case, Sizes, System, precision_of
from benchmarks.training_steps import TrainingSteps
from corgi_core.config import StageSettings, preset_named
from corgi_core.decoders.cascade.network import downsampled, noised, upsampled
from corgi_core.decoders.cascade.unet import LEVEL_FEATURES, Stage
from corgi_core.diffusion.parameterization import target
from corgi_core.diffusion.schedule import Schedule, timestep_features
from corgi_core.training.precision import autocast
from corgi_core.training.randomness import StepRandom
from corgi_core.training.task import ALONE, Task
from corgi_core.training.waiting import Meeting

PAPER = preset_named("paper").cascade
BATCHES = (32, 8)  # images, of the stages of 64 and 256 pixels
SHRUNK = 8  # times as few pixels to a side, for small runs


class Conditions(NamedTuple):
    """Widths of what a stage is conditioned on."""

    embedding_width: int
    vectors: int
    vector_width: int

    @classmethod
    def of(cls, sizes: Sizes) -> Conditions:
        """The paper's: embeddings of three encoders."""
        return cls(16, 2, 16) if sizes.small else cls(1536, PAPER.vectors, PAPER.vector_width)


@dataclass
class StageTask(Task[Stage]):
    """One stage by itself, on made images: what `CascadeTask` does for each of its own."""

    stage: StageSettings
    low: int | None
    conditions: Conditions
    images: Tensor  # [n, 3, s, s] in −1 … 1, on the device
    z: Tensor  # [n, d], on the device

    @property
    def rows(self) -> int:
        """The number of images."""
        return len(self.z)

    def build(self) -> Stage:
        """The UNet, untrained."""
        upsamples = self.low is not None
        return Stage(self.stage, *self.conditions, None, upsamples=upsamples)

    def batch(self, rows: Tensor, random: StepRandom) -> Tensor:
        """The numbers of the images, which are on the device."""
        return rows

    def loss(self, model: nn.Module, batch: Tensor, random: StepRandom) -> dict[str, Tensor]:
        """The mean squared error of v, at one (t, noise) an image."""
        x_0, schedule = self.images[batch], Schedule.shifted_cosine(self.stage.noise_shift)
        t, noise = random.integers(schedule.num_timesteps), random.normal(*x_0.shape[1:])
        inputs, level = [schedule.add_noise(x_0, noise, t)], 0.5 * random.uniform()
        if self.low is not None:
            low = downsampled(x_0, self.low)
            low = noised(low, level, random.normal(*low.shape[1:]))
            inputs.append(upsampled(low, self.stage.size))
        cond_mask = random.uniform() >= 0.1
        predicted = model(torch.cat(inputs, dim=1), t, level, self.z[batch], cond_mask)
        alphas_cumprod = schedule.alphas_cumprod.to(t.device)[t]
        return {"loss": F.mse_loss(predicted, target("v", x_0, noise, alphas_cumprod))}

    def evaluate(self, model: Stage, workers: Meeting = ALONE) -> dict[str, float]:
        """Nothing is held out."""
        return {}


class Plain:
    """diffusers' example: its scheduler, torch's AdamW, EMAModel; channels first."""

    def __init__(self, task: StageTask, precision: str) -> None:
        from diffusers import DDPMScheduler
        from diffusers.training_utils import EMAModel

        self._task, self._precision = task, precision
        self._stage = task.build().to(task.z.device).train()
        self._stage.unet.to(memory_format=torch.contiguous_format)
        self._scheduler = DDPMScheduler(
            num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
        )  # fmt: skip
        self._optimizer = torch.optim.AdamW(self._stage.parameters(), lr=1e-6, weight_decay=1e-6)
        self._average = EMAModel(self._stage.parameters(), use_ema_warmup=True)

    def step(self) -> None:
        """One step of training."""
        images, z, device = self._task.images, self._task.z, self._task.z.device
        noise, t = torch.randn_like(images), torch.randint(1000, (len(z),), device=device)
        noisy, cond = self._scheduler.add_noise(images, noise, t), z
        if self._task.low is not None:
            low, level = downsampled(images, self._task.low), torch.rand(len(z), device=device)
            beside = self._scheduler.add_noise(low, torch.randn_like(low), (level * 999).long())
            noisy = torch.cat([noisy, upsampled(beside, images.shape[-1])], dim=1)
            cond = torch.cat([z, timestep_features(level * 1000, LEVEL_FEATURES)], dim=1)
        with autocast(self._precision, device):
            vectors = None if self._stage.to_vectors is None else self._stage.to_vectors(z)
            predicted = self._stage.unet(noisy, t, vectors, class_labels=cond).sample
        loss = F.mse_loss(predicted.float(), self._scheduler.get_velocity(images, noise, t))
        loss.backward()
        nn.utils.clip_grad_norm_(self._stage.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._average.step(self._stage.parameters())
        loss.item()  # which is logged


def cases(sizes: Sizes) -> Iterator[Case]:
    """One for each stage."""
    precision, conditions, low = precision_of(sizes), Conditions.of(sizes), None
    for stage, batch in zip(stages(sizes), BATCHES, strict=False):
        batch = 2 if sizes.small else batch
        images = torch.randn(batch, 3, stage.size, stage.size, device=sizes.device).clamp(-1, 1)
        z = torch.randn(batch, conditions.embedding_width, device=sizes.device)
        task = StageTask(stage, low, conditions, images, z)
        training = replace(
            PAPER.training, batch_size=batch, accumulation=1, precision=precision, compile=False
        )
        ours = TrainingSteps(task, training, task.build().to(sizes.device), sizes.device)
        yield Case(
            f"cascade: training of {stage.size} pixels", "images", batch, precision,
            System("corgi", ours.step, batch),
            System("diffusers", Plain(task, precision).step, batch),
        )  # fmt: skip
        low = stage.size


def stages(sizes: Sizes) -> tuple[StageSettings, ...]:
    """The paper's stages of 64 and 256 pixels, or ones that are just large enough to run."""
    first, second = PAPER.stages[:2]
    if not sizes.small:
        return first, second
    return tuple(
        replace(
            stage, size=stage.size // SHRUNK, channels=(8, 16), layers=1,
            attention_levels=min(1, stage.attention_levels),
        )
        for stage in (first, second)
    )  # fmt: skip
