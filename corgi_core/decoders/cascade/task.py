"""Training of a cascade, stage after stage: each denoises the training images at its size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.config import CascadeSettings, StageSettings, TrainingSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.keys import KeySet
from corgi_core.decoders.cascade.captions import ImageCaptions
from corgi_core.decoders.cascade.checks import check_cascade
from corgi_core.decoders.cascade.crops import cropped
from corgi_core.decoders.cascade.decoder import BATCH_PIXELS, CascadeDecoder
from corgi_core.decoders.cascade.network import (
    CascadeNetwork,
    CascadeShape,
    downsampled,
    noised,
    stage_of,
    upsampled,
)
from corgi_core.decoders.cascade.unet import Stage
from corgi_core.decoders.decoder import Decoder, SampleOptions, TextCond, signed
from corgi_core.decoders.task import DecoderTask
from corgi_core.devices import device_of, inference
from corgi_core.diffusion.parameterization import target
from corgi_core.diffusion.schedule import Schedule
from corgi_core.encoders.caption_tokens import Batch as TokenBatch
from corgi_core.encoders.caption_tokens import CaptionTokens
from corgi_core.errors import CorgiError
from corgi_core.training.randomness import HeldOutRandom, StepRandom
from corgi_core.training.task import ALONE
from corgi_core.training.waiting import Meeting


class CascadeBatch(NamedTuple):
    """Training images: pixels uint8 [b, 3, s, s], embeddings z [b, d] as stored, and captions."""

    pixels: Tensor
    z: Tensor
    text: TokenBatch | None  # no token where an image has no caption


@dataclass
class CascadeTask(DecoderTask[CascadeSettings, Stage]):
    """Training of one stage of a cascade: the first, unless `stage` is another's number.

    `parts` are the trainings of all stages. Nothing of a stage is needed to train another one.
    `texts` holds "tokens" of captions, ragged, for a cascade that reads them.
    It reads the captions of the images `captioned`; by default, of all.
    """

    texts: ArrayStore | None = None
    captioned: KeySet | None = None
    stage: int = field(default=0, kw_only=True)

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

    def parts(self) -> Mapping[str, CascadeTask]:
        """The trainings of the stages, by their sizes."""
        stages = enumerate(self.settings.stages)
        return {f"stage-{stage.size}": replace(self, stage=number) for number, stage in stages}

    def prepare_data(self, folder: Path) -> None:
        """What every decoder prepares; and load a text encoder that makes tokens."""
        super().prepare_data(folder)
        if self.texts is not None:
            self._tokens.prepare()

    @property
    def training_settings(self) -> TrainingSettings:
        """How this stage is trained."""
        return self.settings.training_of(self.stage)

    @property
    def pixel_size(self) -> int:
        """Pixels to a side of this stage's images."""
        return self._own.size

    def build(self) -> Stage:
        """The untrained stage."""
        return stage_of(self._shape, self.stage)

    def decoder(self, model: Stage, card: Mapping[str, Any]) -> CascadeDecoder:
        """A decoder that has this stage alone, and samples no other."""
        return self._decoder({self.stage: model}, card)

    def assembled(self, models: Sequence[Stage], card: Mapping[str, Any]) -> CascadeDecoder:
        """The decoder of all trained stages."""
        return self._decoder(dict(enumerate(models)), card)

    def fit(self, model: Stage) -> None:
        """Set the whitening of the training images' embeddings."""
        model.whitening.fit(self.spaced_embeddings)

    def start_of(self, start: Decoder) -> nn.Module:
        """This stage of the decoder to continue from."""
        return start.network.get_submodule(f"stages.{self.stage}")

    def batch(self, rows: Tensor, random: StepRandom) -> CascadeBatch:
        """The images of rows [b], each with one of its captions, uniformly."""
        pictures, text = self.pictures(self.training, rows), None
        if self._captions is not None:
            text = self._tokens.batch(self._captions.sample(rows, random.uniform()))
        return CascadeBatch(*pictures, text)

    def loss(self, model: nn.Module, batch: CascadeBatch, random: StepRandom) -> dict[str, Tensor]:
        """The mean loss, at one (t, noise) an image.

        Captions are dropped where the embedding is, and alone with the settings' text_dropout.
        """
        z = self.perturbed(batch.z.float(), random)
        cond_mask, text = random.uniform() >= self.settings.cond_dropout, None
        if batch.text is not None:
            tokens, attn_mask = self._tokens.tokens_of(batch.text)
            read = cond_mask & (random.uniform() >= self.settings.text_dropout)
            text = TextCond(tokens, attn_mask & read[:, None])
        return {"loss": self._loss(model, signed(batch.pixels), z, cond_mask, random, text)}

    def evaluate(self, model: Stage, workers: Meeting = ALONE) -> dict[str, float]:
        """Denoising loss, and the error of few-step samples, on fixed held-out images.

        The samples are this stage's, from the held-out images at the size of the stage before; the
        error is the root of the mean square, of pixel values in 0 … 1.
        """
        if not len(self.held_out.z):
            return {}
        settings, decoder = self.settings, self.decoder(model, card={})
        device, (pixels, z) = device_of(model), self.held_out

        at_once = max(1, BATCH_PIXELS // self.pixel_size**2)

        def sums(first: int) -> tuple[float, float]:
            """Of the loss and of the squared errors, over a chunk of images."""
            rows = slice(first, min(first + at_once, len(z)))
            some, images = z[rows].to(device), signed(pixels[rows].to(device))
            random = HeldOutRandom(len(z), rows, device)
            cond_mask = torch.ones(len(some), dtype=torch.bool, device=device)
            loss = float(self._loss(model, images, some, cond_mask, random))
            options = SampleOptions(0, range(len(z))[rows], settings.num_steps, settings.guidance)
            with inference(device, decoder.precision):
                low = self._low(images)
                sampled = decoder.sample_stage(self.stage, low, some, None, options)
            return loss * len(some), float(((sampled - images) / 2).square().sum())

        parts = workers.each(sums, range(0, len(z), at_once))
        loss, squares = (sum(values) for values in zip(*parts, strict=True))
        error = math.sqrt(squares / pixels.numel())
        return {"held_out_loss": loss / len(z), "held_out_pixel_error": error}

    def _loss(
        self,
        model: nn.Module,
        images: Tensor,
        z: Tensor,
        cond_mask: Tensor,
        random: StepRandom,
        text: TextCond | None = None,
    ) -> Tensor:
        """The mean loss of images [n, 3, s, s] in −1 … 1.

        A stage with a `crop` sees a random square of each image, and of the smaller image under it.
        """
        settings, schedule = self.settings, self._schedule
        part = _part_of(self._own, random)
        x_0 = part(images)
        t, noise = random.integers(schedule.num_timesteps), random.normal(*x_0.shape[1:])
        inputs = [schedule.add_noise(x_0, noise, t)]
        level = settings.condition_noise * random.uniform()
        low = self._low(images)
        if low is not None:
            low = noised(low, level, random.normal(*low.shape[1:]))
            inputs += [part(upsampled(low, self._own.size))]
        predicted = model(torch.cat(inputs, dim=1), t, level, z, cond_mask, text)
        alphas_cumprod = schedule.alphas_cumprod.to(t.device)[t]
        return F.mse_loss(predicted, target(settings.prediction, x_0, noise, alphas_cumprod))

    def _low(self, images: Tensor) -> Tensor | None:
        """The images at the size of the stage before; None for the first stage."""
        if not self.stage:
            return None
        return downsampled(images, self.settings.stages[self.stage - 1].size)

    def _decoder(self, stages: Mapping[int, Stage], card: Mapping[str, Any]) -> CascadeDecoder:
        encoders = dict(self.embeddings.spec)
        if self.texts is not None:
            encoders["text_encoder"] = self.texts.spec["text_encoder"]
        network = CascadeNetwork.of_stages(self._shape, stages)
        return CascadeDecoder(network, self.settings, encoders, card)

    @property
    def _own(self) -> StageSettings:
        return self.settings.stages[self.stage]

    @property
    def _shape(self) -> CascadeShape:
        return CascadeShape.of(self.settings, self.embeddings.spec["width"])

    @cached_property
    def _captions(self) -> ImageCaptions | None:
        if self.texts is None:
            return None
        captioned = self.train_keys if self.captioned is None else self.captioned
        return ImageCaptions(self.training, self.texts, captioned, self._tokens.array)

    @cached_property
    def _tokens(self) -> CaptionTokens:
        assert self.texts is not None
        return CaptionTokens(self.texts)

    @cached_property
    def _schedule(self) -> Schedule:
        return Schedule.shifted_cosine(self._own.noise_shift)


def _part_of(stage: StageSettings, random: StepRandom) -> Callable[[Tensor], Tensor]:
    """What of a stage's images [n, c, s, s] it is trained on: the whole, or one square of each."""
    side = stage.crop
    if side is None or side == stage.size:
        return lambda images: images
    corners = random.integers(stage.size - side + 1, 2)
    return lambda images: cropped(images, corners, side)
