"""The cascade decoder: samples a small image, then a larger one from it, and so on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from corgi_core.config import CascadeSettings, StageSettings, settings_from
from corgi_core.decoders.cascade.memory import GB, image_memory
from corgi_core.decoders.cascade.network import CascadeNetwork, CascadeShape, noised, upsampled
from corgi_core.decoders.cascade.tiles import in_tiles
from corgi_core.decoders.decoder import Decoder, SampleOptions, TextCond, unsigned
from corgi_core.devices import free_memory
from corgi_core.diffusion.guidance import guided
from corgi_core.diffusion.parameterization import to_x0
from corgi_core.diffusion.samplers import noise_for, sample_dpmpp
from corgi_core.diffusion.schedule import TIMESTEPS, Schedule
from corgi_core.training.randomness import seed_of

BATCH_PIXELS = 2**18  # of the images that are sampled at once: four of 256 to a side

log = logging.getLogger(__name__)


class CascadeDecoder(Decoder):
    """Samples images stage by stage, each in a few steps of DPM-Solver++."""

    network: CascadeNetwork
    settings: CascadeSettings

    @classmethod
    def build(cls, shape: Mapping[str, Any]) -> nn.Module:
        """The untrained network of a saved shape."""
        return CascadeNetwork(settings_from(CascadeShape, shape))

    @property
    def max_steps(self) -> int:
        """T of the noise schedules."""
        return TIMESTEPS

    @property
    def batch_pixels(self) -> int:
        """The pixels of images that are sampled at once: see `Decoder.batch_pixels`."""
        return BATCH_PIXELS

    @property
    def less_memory(self) -> str:
        """What a person can do where there is no memory to sample a batch."""
        return (
            "set decoders.cascade.sampling_memory to the GB that an image may take, so that it is "
            f"sampled in tiles of {self.settings.tile} pixels, or {super().less_memory}"
        )

    @property
    def reads_text(self) -> bool:
        """Whether the cascade was built for captions."""
        return self.network.shape.text_width is not None

    def sample(self, z: Tensor, text: TextCond | None, options: SampleOptions) -> Tensor:
        """Images [n, 3, s, s] in [0, 1] of embeddings [n, d]: see `Decoder.sample`.

        Without text, a decoder that reads text is conditioned on the embeddings alone.
        """
        images: Tensor | None = None
        for number in range(len(self.settings.stages)):
            images = self.sample_stage(number, images, z, text, options)
        assert images is not None
        return unsigned(images)

    def sample_stage(
        self,
        number: int,
        low: Tensor | None,
        z: Tensor,
        text: TextCond | None,
        options: SampleOptions,
    ) -> Tensor:
        """Sample the images of one stage.

        Args:
            number: The stage's, from 0.
            low: Images [n, 3, r, r] in −1 … 1 of the stage before; None for the first.
            z: Embeddings [n, d].
            text: The captions, or None.
            options: Seed, steps and guidance.

        Returns:
            Images [n, 3, s, s] in −1 … 1, of the stage's size s.
        """
        settings, stage = self.settings, self.settings.stages[number]
        schedule = Schedule.shifted_cosine(stage.noise_shift)
        tile = self._tile(stage, z.device)

        def noise(name: str, size: int) -> Tensor:
            seed = seed_of(name, options.seed, number)
            return noise_for(seed, options.sample_ids, (3, size, size)).to(z.device)

        level = z.new_full((len(z),), settings.sampling_noise)
        added = []
        if low is not None:
            added = [upsampled(noised(low, level, noise("condition", low.shape[-1])), stage.size)]

        def denoise(x_t: Tensor, t: int) -> Tensor:
            timesteps = torch.full((len(z),), t, device=z.device)
            predict = partial(self._predict, number, timesteps, level, z, text, options.guidance)
            inputs = torch.cat([x_t, *added], dim=1)
            predicted = in_tiles(predict, inputs, tile, settings.overlap)
            alphas_cumprod = schedule.alphas_cumprod.to(z.device)[t]
            return to_x0(settings.prediction, x_t, predicted, alphas_cumprod).clamp(-1, 1)

        x_t = noise("picture", stage.size).unsqueeze(1)
        return sample_dpmpp(denoise, x_t, options.num_steps, schedule).clamp(-1, 1)

    def _tile(self, stage: StageSettings, device: torch.device) -> int:
        """The side of the stage's tiles: its own where an image fits into memory at once."""
        limit = self.settings.sampling_memory
        free = free_memory(device) if limit is None else limit * GB
        needed = image_memory(stage)
        if stage.size <= self.settings.tile or needed <= free:
            return stage.size
        log.warning(
            "an image of %d pixels needs %.1f GB, of which %.1f are free: it is sampled in tiles "
            "of %d, each normalised by itself",
            stage.size, needed / GB, free / GB, self.settings.tile,
        )  # fmt: skip
        return self.settings.tile

    def _predict(
        self,
        number: int,
        t: Tensor,
        level: Tensor,
        z: Tensor,
        text: TextCond | None,
        guidance: float,
        inputs: Tensor,
    ) -> Tensor:
        """Prediction of stage `number`, with classifier-free guidance unless guidance is 1."""
        stage = self.network.stages[number]
        cond_mask = torch.ones(len(t), dtype=torch.bool, device=t.device)
        cond: Tensor = stage(inputs, t, level, z, cond_mask, text)
        if guidance == 1:
            return cond
        uncond: Tensor = stage(inputs, t, level, z, ~cond_mask)
        return guided(uncond, cond, guidance)
