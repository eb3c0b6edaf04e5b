"""The training pictures' latents: encoded once, so that the VAE is not part of the loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from corgi_core.data.arrays import ArrayStore
from corgi_core.decoders.picture_task import in_range
from corgi_core.decoders.stable_diffusion.network import PIXELS_AT_ONCE, TILED_ABOVE
from corgi_core.decoders.stable_diffusion.pipeline import load_vae
from corgi_core.progress import report
from corgi_core.training.randomness import StepRandom


class TrainingLatents:
    """q(x_0 | picture) = N(mean, deviation²) of the pictures `keys`, in their order.

    Every worker encodes all pictures when it first needs one, on its own device and a shard at a
    time, and keeps the result in float32 in main memory: half a byte a pixel for Stable Diffusion,
    a sixth of the pictures as bytes. (A million pictures of 512 pixels are 131 GB: then shard.)
    """

    def __init__(self, source: str, pixels: ArrayStore, keys: Sequence[str]) -> None:
        self._source, self._pixels, self._keys = source, pixels, keys
        self._posteriors: tuple[Tensor, Tensor] | None = None

    def draw(self, pictures: Tensor, random: StepRandom) -> Tensor:
        """Scaled latents [b, c, h, w] of the pictures [b], drawn anew from their posteriors."""
        if self._posteriors is None:
            self._posteriors = self._encode(random.device)
        mean, deviation = (part[pictures].to(random.device) for part in self._posteriors)
        return mean + deviation * random.normal(*mean.shape[1:])

    def _encode(self, device: torch.device) -> tuple[Tensor, Tensor]:
        vae = load_vae(self._source).eval()
        vae.to(device)  # type: ignore[arg-type]  # diffusers hides nn.Module's signature
        chunks = list(self._pieces(vae))
        keys = self._pixels.keys[self._pixels.rows_among(self._keys)]
        order = torch.from_numpy(np.argsort(keys, kind="stable"))
        means, deviations = (torch.cat(part)[order] for part in zip(*chunks, strict=True))
        return means, deviations

    def _pieces(self, vae: AutoencoderKL) -> Iterator[tuple[Tensor, Tensor]]:
        done, wanted = 0, set(self._keys)
        for shard in self._pixels.chunks("pixels", wanted):
            at_once = max(1, PIXELS_AT_ONCE // shard[0, 0].size) if len(shard) else 1
            for pixels in torch.from_numpy(shard).split(at_once):
                mean, deviation = posterior(vae, pixels)
                yield mean.cpu(), deviation.cpu()
                report("encoding pictures", done := done + len(pixels), len(wanted))


@torch.no_grad()
def posterior(vae: AutoencoderKL, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation, scaled, [n, c, h, w] each, of pictures uint8 [n, 3, s, s]."""
    vae.use_tiling = pixels.shape[-1] > TILED_ABOVE
    found = vae.encode(in_range(pixels.to(vae.device))).latent_dist
    scale = vae.config["scaling_factor"]
    return found.mean * scale, found.std * scale
