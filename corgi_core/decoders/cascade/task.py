"""What a cascade learns: every stage to denoise all training images, at its own size."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.config import CascadeSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.decoders.cascade.checks import check_cascade
from corgi_core.decoders.cascade.condition import larger, noised, smaller
from corgi_core.decoders.cascade.decoder import CascadeDecoder
from corgi_core.decoders.cascade.network import CascadeNetwork, CascadeShape
from corgi_core.decoders.cascade.prediction import prediction_target
from corgi_core.decoders.decoder import Text
from corgi_core.decoders.noise import T, forward_process
from corgi_core.decoders.picture_task import PictureTask, in_range
from corgi_core.errors import CorgiError
from corgi_core.training.randomness import StepRandom


@dataclass
class CascadeTask(PictureTask[CascadeSettings, CascadeNetwork]):
    """Training of a cascade, all stages in one run; its loss is the mean of theirs.

    `texts` holds "tokens" [m, T, w] and "mask" [m, T] of captions, for a cascade that reads them;
    it reads those of the images `captioned`, or of all.
    """

    texts: ArrayStore | None = None
    captioned: Collection[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cascade(self.settings)
        wanted = self.settings.text_width
        found = None if self.texts is None else self.texts.spec["text_width"]
        if found != wanted:
            raise CorgiError(
                f"the captions' tokens have width {found}, the cascade reads width {wanted}",
                "set decoder.text_width to the tokens' width, or to None and give no texts",
            )

    def build(self) -> CascadeNetwork:
        return CascadeNetwork(CascadeShape.of(self.settings, self.embeddings.spec["width"]))

    def decoder(self, model: CascadeNetwork, card: Mapping[str, Any]) -> CascadeDecoder:
        encoders = dict(self.embeddings.spec)
        if self.texts is not None:
            encoders["text_encoder"] = self.texts.spec["text_encoder"]
        return CascadeDecoder(model, self.settings, encoders, card)

    def fit(self, model: CascadeNetwork) -> None:
        """The whitening of the training images' embeddings."""
        model.white.fit(self.training_embeddings)

    def loss(self, model: nn.Module, rows: Tensor, random: StepRandom) -> dict[str, Tensor]:
        """One (t, noise) a picture and stage, embeddings blurred now and then. rows [b] → mean."""
        chosen = self.order[rows]
        pictures = in_range(self.training_pixels[chosen].to(random.device))
        z = self.blurred(self.training_embeddings[chosen].to(random.device), random)
        dropped = random.uniform() < self.settings.cond_dropout
        text = self._words_of(chosen, dropped, random)
        return self._losses(model, pictures, z, dropped, random, text)

    def evaluate(self, model: CascadeNetwork) -> dict[str, float]:
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
        self,
        model: nn.Module,
        pictures: Tensor,
        z: Tensor,
        dropped: Tensor,
        random: StepRandom,
        text: Text | None = None,
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
        predictions = model(x, timesteps, levels, z, dropped, text)
        losses = [F.mse_loss(p, target) for p, target in zip(predictions, targets, strict=True)]
        by_size = {
            f"loss_{stage.size}": loss
            for stage, loss in zip(settings.stages, losses, strict=True)
        }  # fmt: skip
        return {"loss": torch.stack(losses).mean(), **by_size}

    def _words_of(self, chosen: Tensor, dropped: Tensor, random: StepRandom) -> Text | None:
        """The chosen pictures' captions; hidden where the embedding is, and now and then alone."""
        if self._captions is None:
            return None
        tokens, mask = (part[chosen].to(random.device) for part in self._captions)
        hidden = dropped | (random.uniform() < self.settings.text_dropout)
        return Text(tokens.float(), mask & ~hidden[:, None])

    @cached_property
    def _captions(self) -> Text | None:
        """Each training picture's first caption; where it has none, no token is there."""
        if self.texts is None:
            return None
        first = {key: row for row, key in reversed(list(enumerate(self.texts.keys.tolist())))}
        read = first.keys() if self.captioned is None else first.keys() & set(self.captioned)
        rows = np.array([first[key] if key in read else -1 for key in self.train_keys])
        tokens, mask = self.texts.read("tokens")[rows], self.texts.read("mask")[rows].astype(bool)
        return Text(torch.from_numpy(tokens), torch.from_numpy(mask & (rows >= 0)[:, None]))

    @cached_property
    def _processes(self) -> list[DDPMScheduler]:
        return [forward_process(stage.noise_shift) for stage in self.settings.stages]
