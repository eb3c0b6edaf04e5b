"""Latents of the training images, which the pretrained VAE encodes batch by batch."""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from corgi_core.decoders.decoder import signed
from corgi_core.decoders.stable_diffusion.network import MAX_UNTILED
from corgi_core.decoders.stable_diffusion.pipeline import load_vae
from corgi_core.training.randomness import StepRandom


class Latents:
    """q(x_0 | image) = N(mean, std²) of images, by the frozen VAE of a pipeline.

    They are not stored: the posteriors of an image of 768 pixels take 295 KB in float32, those of a
    million images more than a disk has.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._vae: AutoencoderKL | None = None

    def sample(self, pixels: Tensor, random: StepRandom) -> Tensor:
        """Scaled latents [b, c, h, w] of images uint8 [b, 3, s, s], sampled from the posteriors."""
        if self._vae is None:
            self._vae = load_vae(self._source).eval().requires_grad_(False)
        self._vae.to(random.device)  # type: ignore[arg-type]  # diffusers hides nn.Module's
        mean, std = posterior(self._vae, pixels)
        return mean + std * random.normal(*mean.shape[1:])


@torch.no_grad()
def posterior(vae: AutoencoderKL, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std of the scaled latents, [n, c, h, w] each, of images uint8 [n, 3, s, s]."""
    vae.use_tiling = pixels.shape[-1] > MAX_UNTILED
    found = vae.encode(signed(pixels.to(vae.device))).latent_dist
    scale = vae.config["scaling_factor"]
    return found.mean * scale, found.std * scale
