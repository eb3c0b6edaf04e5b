"""The PCA decoder: a few steps of diffusion over the PCA coordinates of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from corgi_core.config import PCASettings
from corgi_core.decoders.decoder import Decoder, SampleOptions, TextCond, unsigned
from corgi_core.decoders.pca.network import PCANetwork, PCAShape
from corgi_core.diffusion.guidance import guided
from corgi_core.diffusion.samplers import noise_for, sample_dpmpp
from corgi_core.diffusion.schedule import TIMESTEPS, Schedule


class PCADecoder(Decoder):
    """Decodes embeddings to small images by DPM-Solver++ over their PCA coordinates."""

    network: PCANetwork
    settings: PCASettings

    @classmethod
    def build(cls, shape: Mapping[str, Any]) -> nn.Module:
        """The untrained network of a saved shape."""
        return PCANetwork(PCAShape(**shape))

    @property
    def max_steps(self) -> int:
        """T of the noise schedule."""
        return TIMESTEPS

    def sample(self, z: Tensor, text: TextCond | None, options: SampleOptions) -> Tensor:
        """Images [n, 3, s, s] in [0, 1] of embeddings [n, d]: see `Decoder.sample`."""
        noise = noise_for(options.seed, options.sample_ids, (1, self.network.shape.components))
        x_0 = sample_dpmpp(
            lambda x_t, t: self._predict_x0(x_t, t, z, options.guidance),
            noise.to(z.device),
            options.num_steps,
            Schedule.shifted_cosine(self.settings.noise_shift),
        )
        return unsigned(self.network.basis.reconstruct(x_0))

    def _predict_x0(self, x_t: Tensor, t: int, z: Tensor, guidance: float) -> Tensor:
        """x̂_0 [n, k] of x_t [n, k], with classifier-free guidance unless guidance is 1."""
        timesteps = torch.full((len(x_t),), t, device=x_t.device)
        cond_mask = torch.ones(len(x_t), dtype=torch.bool, device=x_t.device)
        cond: Tensor = self.network(x_t, timesteps, z, cond_mask)
        if guidance == 1:
            return cond
        uncond: Tensor = self.network(x_t, timesteps, z, ~cond_mask)
        return guided(uncond, cond, guidance)
