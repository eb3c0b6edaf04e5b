"""Training of a cascade: every stage denoises all training images, downsampled to its size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.batches import batches
from corgi_core.config import CascadeSettings, StageSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.ragged import RaggedArray
from corgi_core.decoders.cascade.checks import check_cascade
from corgi_core.decoders.cascade.crops import cropped
from corgi_core.decoders.cascade.decoder import BATCH_PIXELS, CascadeDecoder
from corgi_core.decoders.cascade.network import (
    CascadeNetwork,
    CascadeShape,
    downsampled,
    noised,
    upsampled,
)
from corgi_core.decoders.decoder import TextCond, signed
from corgi_core.decoders.task import DecoderTask
from corgi_core.devices import device_of
from corgi_core.diffusion.parameterization import target
from corgi_core.diffusion.schedule import Schedule
from corgi_core.encoders.tokens import padded
from corgi_core.errors import CorgiError
from corgi_core.training.randomness import HeldOutRandom, StepRandom


class CaptionTokens(NamedTuple):
    """The tokens of all captions, ragged, and which of them belong to each training image.

    Image i has the captions `rows[starts[i]]` … `rows[starts[i] + counts[i] − 1]`.
    """

    tokens: RaggedArray
    rows: Tensor
    starts: Tensor
    counts: Tensor


@dataclass
class CascadeTask(DecoderTask[CascadeSettings, CascadeNetwork]):
    """Training of a cascade, all stages in one run. Its loss is the mean of theirs.

    `texts` holds "tokens" of captions, ragged, for a cascade that reads them.
    It reads the captions of the images `captioned`; by default, of all.
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
        """The untrained network."""
        return CascadeNetwork(CascadeShape.of(self.settings, self.embeddings.spec["width"]))

    def decoder(self, model: CascadeNetwork, card: Mapping[str, Any]) -> CascadeDecoder:
        """The trained network as a decoder."""
        encoders = dict(self.embeddings.spec)
        if self.texts is not None:
            encoders["text_encoder"] = self.texts.spec["text_encoder"]
        return CascadeDecoder(model, self.settings, encoders, card)

    def fit(self, model: CascadeNetwork) -> None:
        """Set the whitening of the training images' embeddings."""
        model.whitening.fit(self.training_embeddings)

    def loss(self, model: nn.Module, rows: Tensor, random: StepRandom) -> dict[str, Tensor]:
        """The mean loss of rows [b], and each stage's, at one (t, noise) an image and stage."""
        images = self.order[rows]
        x_0 = signed(self.training_pixels[images].to(random.device))
        z = self.perturbed(self.training_embeddings[images].to(random.device), random)
        cond_mask = random.uniform() >= self.settings.cond_dropout
        text = self._sample_captions(images, cond_mask, random)
        return self._losses(model, x_0, z, cond_mask, random, text)

    def evaluate(self, model: CascadeNetwork) -> dict[str, float]:
        """Denoising losses, and the error of few-step samples, on fixed held-out images."""
        if not self.test_keys:
            return {}
        device, (pixels, z) = device_of(model), self.held_out
        held_out: dict[str, float] = {}
        for rows in batches(len(z), device, max(1, BATCH_PIXELS // self.settings.image_size**2)):
            some, images = z[rows].to(device), signed(pixels[rows].to(device))
            random = HeldOutRandom(len(z), rows, device)
            cond_mask = torch.ones(len(some), dtype=torch.bool, device=device)
            losses = self._losses(model, images, some, cond_mask, random)
            for name, loss in losses.items():
                part = float(loss) * len(some) / len(z)
                held_out[f"held_out_{name}"] = held_out.get(f"held_out_{name}", 0.0) + part
        return held_out | super().evaluate(model)

    def _losses(
        self,
        model: nn.Module,
        images: Tensor,
        z: Tensor,
        cond_mask: Tensor,
        random: StepRandom,
        text: TextCond | None = None,
    ) -> dict[str, Tensor]:
        """The mean "loss" and each stage's "loss_<size>", of images [n, 3, s, s] in −1 … 1.

        A stage with a `crop` sees a random square of each image, and of the smaller image under it.
        """
        settings = self.settings
        x, timesteps, levels, targets = [], [], [], []
        low: Tensor | None = None
        for stage, schedule in zip(settings.stages, self._schedules, strict=True):
            whole = downsampled(images, stage.size)
            part = _part_of(stage, random)
            x_0 = part(whole)
            t, noise = random.integers(schedule.num_timesteps), random.normal(*x_0.shape[1:])
            inputs = [schedule.add_noise(x_0, noise, t)]
            level = settings.condition_noise * random.uniform()
            if low is not None:
                low = noised(low, level, random.normal(*low.shape[1:]))
                inputs += [part(upsampled(low, stage.size))]
            x.append(torch.cat(inputs, dim=1))
            timesteps.append(t)
            levels.append(level)
            alphas_cumprod = schedule.alphas_cumprod.to(t.device)[t]
            targets.append(target(settings.prediction, x_0, noise, alphas_cumprod))
            low = whole
        predictions = model(x, timesteps, levels, z, cond_mask, text)
        losses = [F.mse_loss(*pair) for pair in zip(predictions, targets, strict=True)]
        sizes = [stage.size for stage in settings.stages]
        by_size = {f"loss_{size}": loss for size, loss in zip(sizes, losses, strict=True)}
        return {"loss": torch.stack(losses).mean(), **by_size}

    def _sample_captions(
        self, images: Tensor, cond_mask: Tensor, random: StepRandom
    ) -> TextCond | None:
        """One of each image's captions, uniformly; a pure function of (seed, step, sample).

        The captions are dropped where the embedding is, and alone with the settings' text_dropout.
        """
        if self._captions is None:
            return None
        tokens, rows, starts, counts = self._captions
        cond_mask = cond_mask & (random.uniform() >= self.settings.text_dropout)
        count, number = counts[images], random.uniform().cpu()
        chosen = starts[images] + (number * count).long().clamp_max(count - 1)
        captions = rows[torch.where(count > 0, chosen, 0)]
        cond_mask = cond_mask & (count > 0).to(random.device)
        batch, attn_mask = padded(tokens.take(captions.numpy()), random.device)
        return TextCond(batch, attn_mask & cond_mask[:, None])

    @cached_property
    def _captions(self) -> CaptionTokens | None:
        """The captions of the training images that are in the caption subset."""
        if self.texts is None:
            return None
        captioned = set(self.train_keys if self.captioned is None else self.captioned)
        found: dict[str, list[int]] = {}
        for row, key in enumerate(self.texts.keys.tolist()):
            if key in captioned:
                found.setdefault(key, []).append(row)
        rows = [found.get(key, []) for key in self.train_keys]
        counts = torch.tensor([len(each) for each in rows])
        flat = torch.tensor([row for each in rows for row in each] or [0])
        tokens = self.texts.read_ragged("tokens")
        return CaptionTokens(tokens, flat, counts.cumsum(0) - counts, counts)

    @cached_property
    def _schedules(self) -> list[Schedule]:
        return [Schedule.shifted_cosine(stage.noise_shift) for stage in self.settings.stages]


def _part_of(stage: StageSettings, random: StepRandom) -> Callable[[Tensor], Tensor]:
    """What of a stage's images [n, c, s, s] it is trained on: the whole, or one square of each."""
    side = stage.crop
    if side is None or side == stage.size:
        return lambda images: images
    corners = random.integers(stage.size - side + 1, 2)
    return lambda images: cropped(images, corners, side)
