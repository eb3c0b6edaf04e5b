"""Latents of the training images: encoded once, so that the VAE is not part of the loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from corgi_core.batches import batches
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.resizing import at_size
from corgi_core.decoders.decoder import BATCH_PIXELS, signed
from corgi_core.decoders.stable_diffusion.network import MAX_UNTILED
from corgi_core.decoders.stable_diffusion.pipeline import load_vae
from corgi_core.progress import report
from corgi_core.training.randomness import StepRandom


class TrainingLatents:
    """q(x_0 | image) = N(mean, std²) of the images `keys` at `size` pixels, in their order.

    Every worker encodes all images when it first needs one, on its own device and a shard at a
    time, and keeps the result in float32 in main memory: half a byte a pixel for Stable Diffusion,
    a sixth of the images as bytes. (A million images of 512 pixels are 131 GB: then shard.)
    """

    def __init__(self, source: str, pixels: ArrayStore, keys: Sequence[str], size: int) -> None:
        self._source, self._pixels, self._keys, self._size = source, pixels, keys, size
        self._posteriors: tuple[Tensor, Tensor] | None = None

    def sample(self, images: Tensor, random: StepRandom) -> Tensor:
        """Scaled latents [b, c, h, w] of the images number [b], sampled from their posteriors."""
        if self._posteriors is None:
            self._posteriors = self._encode(random.device)
        mean, std = (part[images].to(random.device) for part in self._posteriors)
        return mean + std * random.normal(*mean.shape[1:])

    def _encode(self, device: torch.device) -> tuple[Tensor, Tensor]:
        vae = load_vae(self._source).eval()
        vae.to(device)  # type: ignore[arg-type]  # diffusers hides nn.Module's signature
        chunks = list(self._encode_chunks(vae))
        keys = self._pixels.keys[self._pixels.rows_among(self._keys)]
        order = torch.from_numpy(np.argsort(keys, kind="stable"))
        means, stds = (torch.cat(part)[order] for part in zip(*chunks, strict=True))
        return means, stds

    def _encode_chunks(self, vae: AutoencoderKL) -> Iterator[tuple[Tensor, Tensor]]:
        done, wanted = 0, set(self._keys)
        for shard in self._pixels.chunks("pixels", wanted):
            usual = max(1, BATCH_PIXELS // self._size**2)
            for rows in batches(len(shard), vae.device, usual):
                pixels = at_size(torch.from_numpy(shard[rows]), self._size)
                mean, std = posterior(vae, pixels)
                yield mean.cpu(), std.cpu()
                report("encoding images", done := done + len(pixels), len(wanted))


@torch.no_grad()
def posterior(vae: AutoencoderKL, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std of the scaled latents, [n, c, h, w] each, of images uint8 [n, 3, s, s]."""
    vae.use_tiling = pixels.shape[-1] > MAX_UNTILED
    found = vae.encode(signed(pixels.to(vae.device))).latent_dist
    scale = vae.config["scaling_factor"]
    return found.mean * scale, found.std * scale
