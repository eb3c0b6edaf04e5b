"""What a cascade learns: every stage to denoise all training images, at its own size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.decoders.cascade.condition import larger, noised, smaller
from corgi_core.decoders.cascade.decoder import CascadeDecoder
from corgi_core.decoders.cascade.network import CascadeNetwork, CascadeShape
from corgi_core.decoders.cascade.prediction import PREDICTIONS, prediction_target
from corgi_core.decoders.noise import T, forward_process
from corgi_core.decoders.picture_task import PictureTask, in_range
from corgi_core.errors import CorgiError
from corgi_core.presets import CascadeSettings
from corgi_core.training.loop import StepRandom


@dataclass
class CascadeTask(PictureTask[CascadeSettings]):
    """Training of a cascade, all stages in one run; its loss is the mean of theirs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cascade(self.settings)

    def build(self) -> nn.Module:
        return CascadeNetwork(CascadeShape.of(self.settings, self.embeddings.spec["width"]))

    def decoder(self, model: nn.Module, card: Mapping[str, Any]) -> CascadeDecoder:
        return CascadeDecoder(model, self.settings, self.embeddings.spec, card)

    def prepare(self, model: nn.Module) -> None:
        """The whitening of the training images' embeddings."""
        assert isinstance(model, CascadeNetwork)
        model.white.fit(self.training_embeddings)

    def loss(self, model: nn.Module, rows: Tensor, random: StepRandom) -> dict[str, Tensor]:
        """One (t, noise) a picture and stage, embeddings blurred now and then. rows [b] → mean."""
        chosen = self.order[rows]
        pictures = in_range(self.training_pixels[chosen].to(random.device))
        z = self.blurred(self.training_embeddings[chosen].to(random.device), random)
        dropped = random.uniform() < self.settings.embedding_dropout
        return self._losses(model, pictures, z, dropped, random)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Denoising losses and the error of few-step reconstructions, on fixed held-out images."""
        if not self.test_keys:
            return {}
        device = next(model.parameters()).device
        pixels, z = (tensor.to(device) for tensor in self.held_out)
        random = StepRandom(0, 0, len(z), device=device)
        shown = torch.zeros(len(z), dtype=torch.bool, device=device)
        losses = self._losses(model, in_range(pixels), z, shown, random)
        held_out = {f"held_out_{name}": float(loss) for name, loss in losses.items()}
        return held_out | super().evaluate(model)

    def _losses(
        self, model: nn.Module, pictures: Tensor, z: Tensor, dropped: Tensor, random: StepRandom
    ) -> dict[str, Tensor]:
        """ "loss", and each stage's own, of pictures [n, 3, s, s] in −1 … 1."""
        settings = self.settings
        x, timesteps, levels, targets = [], [], [], []
        low: Tensor | None = None
        for stage, process in zip(settings.stages, self._processes, strict=True):
            x_0 = smaller(pictures, stage.size)
            t, noise = random.integers(T), random.normal(*x_0.shape[1:])
            noisy = [process.add_noise(x_0, noise, t.int())]  # type: ignore[arg-type]
            level = settings.condition_noise * random.uniform()
            if low is not None:
                noisy += [larger(noised(low, level, random.normal(*low.shape[1:])), stage.size)]
            x.append(torch.cat(noisy, dim=1))
            timesteps.append(t)
            levels.append(level)
            alpha_bar = process.alphas_cumprod.to(t.device)[t]
            targets.append(prediction_target(settings.prediction, x_0, noise, alpha_bar))
            low = x_0
        predictions = model(x, timesteps, levels, z, dropped)
        losses = [F.mse_loss(p, target) for p, target in zip(predictions, targets, strict=True)]
        by_size = {
            f"loss_{stage.size}": loss
            for stage, loss in zip(settings.stages, losses, strict=True)
        }  # fmt: skip
        return {"loss": torch.stack(losses).mean(), **by_size}

    @cached_property
    def _processes(self) -> list[DDPMScheduler]:
        return [forward_process(stage.noise_shift) for stage in self.settings.stages]


def check_cascade(settings: CascadeSettings) -> None:
    """CorgiError for settings that no cascade can be built from."""
    stages = settings.stages
    if not stages or stages[-1].size != settings.image_size:
        raise CorgiError(
            f"the last of a cascade's stages must draw the image_size, {settings.image_size}",
            "add a stage of that size at the end",
        )
    for before, after in pairwise(stages):
        if after.size <= before.size or after.size % before.size:
            raise CorgiError(
                f"a stage of {after.size} pixels cannot follow one of {before.size}",
                "let each stage's size be a multiple of the size before",
            )
    for stage in stages:
        unit = 2 ** (len(stage.channels) - 1)
        sides = {"size": stage.size}
        if stage.size > settings.tile:
            sides |= {"tile": settings.tile, "overlap": settings.overlap}
        for name, pixels in sides.items():
            if pixels < 1 or pixels % unit:
                raise CorgiError(
                    f"a UNet of {len(stage.channels)} levels halves its picture to 1/{unit}, "
                    f"but the {name} is {pixels} pixels",
                    f"choose a multiple of {unit}, or fewer levels",
                )
        if any(c < 8 or c % 8 for c in stage.channels):
            raise CorgiError(
                f"{stage.channels} are no channels for a UNet", "choose multiples of 8"
            )
        if not 0 <= stage.attending <= len(stage.channels):
            raise CorgiError(
                f"{stage.attending} of {len(stage.channels)} levels cannot attend",
                f"set attending to 0 … {len(stage.channels)}",
            )
    if not 0 <= 2 * settings.overlap <= settings.tile:
        raise CorgiError(
            f"tiles of {settings.tile} pixels cannot overlap by {settings.overlap}",
            "let them overlap by half a tile at most",
        )
    if settings.prediction not in PREDICTIONS:
        raise CorgiError(
            f"a UNet cannot predict {settings.prediction!r}",
            f"choose one of {', '.join(PREDICTIONS)}",
        )
    for name in ("condition_noise", "sampling_noise"):
        if not 0 <= getattr(settings, name) <= 1:
            raise CorgiError(
                f"{name} is {getattr(settings, name)}", "give the noise's deviation, 0 to 1"
            )
