"""The Stable Diffusion decoder: samples latents in a few steps of DPM-Solver++, then the VAE."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from corgi_core.config import StableDiffusionSettings
from corgi_core.decoders.decoder import Decoder, SampleOptions, TextCond, unsigned
from corgi_core.decoders.stable_diffusion.network import (
    StableDiffusionNetwork,
    StableDiffusionShape,
)
from corgi_core.diffusion.guidance import guided
from corgi_core.diffusion.parameterization import to_x0
from corgi_core.diffusion.samplers import noise_for, sample_dpmpp
from corgi_core.diffusion.schedule import Schedule
from corgi_core.errors import CorgiError


class StableDiffusionDecoder(Decoder):
    """Samples by Stable Diffusion 2, guided away from a negative embedding."""

    network: StableDiffusionNetwork
    settings: StableDiffusionSettings
    _negative: Tensor | None = None  # a prior's, instead of the network's own

    @classmethod
    def build(cls, shape: Mapping[str, Any]) -> nn.Module:
        """The untrained network of a saved shape."""
        return StableDiffusionNetwork.untrained(StableDiffusionShape(**shape))

    @property
    def max_steps(self) -> int:
        """T of the pipeline's noise schedule."""
        return self._schedule.num_timesteps

    @property
    def needs_negative(self) -> bool:
        """Whether the settings' negative is the prior's embedding of the empty caption."""
        return self.settings.negative == "prior"

    def with_negative(self, embedding: Tensor) -> Self:
        """This decoder, with guidance that starts from an embedding [d]."""
        if embedding.shape != (self.width,):
            raise CorgiError(
                f"the negative embedding has shape {list(embedding.shape)}, "
                f"this decoder needs [{self.width}]",
                "sample it by the prior that the decoder belongs to",
            )
        guided_decoder = copy.copy(self)
        guided_decoder._negative = embedding
        return guided_decoder

    def sample(self, z: Tensor, text: TextCond | None, options: SampleOptions) -> Tensor:
        """Images [n, 3, s, s] in [0, 1] of embeddings [n, d]: see `Decoder.sample`."""
        side = self.settings.image_size // self.network.latent_pixels
        channels = self.network.vae.config["latent_channels"]
        noise = noise_for(options.seed, options.sample_ids, (1, channels, side, side))

        def denoise(x_t: Tensor, t: int) -> Tensor:
            predicted = self.predict(x_t, t, z, options.guidance)
            alphas_cumprod = self._schedule.alphas_cumprod.to(z.device)[t]
            return to_x0(self.network.shape.parameterization, x_t, predicted, alphas_cumprod)

        latents = sample_dpmpp(denoise, noise.to(z.device), options.num_steps, self._schedule)
        return unsigned(self.network.decode_latents(latents))

    def predict(self, x_t: Tensor, t: int, z: Tensor, guidance: float) -> Tensor:
        """The UNet's prediction, guided away from the negative embedding unless guidance is 1.

        Args:
            x_t: Latents [n, c, h, w].
            t: The timestep of all of them.
            z: Embeddings [n, d].
            guidance: Scale w of ε = ε(negative) + w (ε(z) − ε(negative)); velocities likewise.

        Returns:
            ε or v [n, c, h, w], as the pipeline's scheduler says.
        """
        timesteps = torch.full((len(x_t),), t, device=x_t.device)
        cond_mask = torch.ones(len(x_t), dtype=torch.bool, device=x_t.device)
        cond: Tensor = self.network(x_t, timesteps, z, cond_mask)
        if guidance == 1:
            return cond
        own = self.network.conditioning.negative
        negative = (own if self._negative is None else self._negative.to(z)).expand_as(z)
        uncond: Tensor = self.network(x_t, timesteps, negative, cond_mask)
        return guided(uncond, cond, guidance)

    @cached_property
    def _schedule(self) -> Schedule:
        return Schedule.of_pipeline(self.network.shape.scheduler)
