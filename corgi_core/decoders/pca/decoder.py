"""The PCA decoder: a few steps of diffusion over the PCA coordinates of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from corgi_core.config import PCASettings
from corgi_core.decoders.decoder import Decoder, Drawing, Text
from corgi_core.decoders.noise import T, few_step_solver
from corgi_core.decoders.pca.network import PCANetwork, PCAShape
from corgi_core.diffusion.samplers import noise_for


class PCADecoder(Decoder):
    """Decodes embeddings to small images by diffusion over their PCA coordinates."""

    most_steps: ClassVar[int] = T

    network: PCANetwork
    settings: PCASettings

    @classmethod
    def build(cls, shape: Mapping[str, Any]) -> nn.Module:
        return PCANetwork(PCAShape(**shape))

    def draw(self, z: Tensor, text: Text | None, drawing: Drawing) -> Tensor:
        noise = noise_for(drawing.seed, drawing.first, len(z), (self.network.shape.components,))
        x, solver = noise.to(z.device), few_step_solver(self.settings.noise_shift, drawing.steps)
        for t in solver.timesteps:
            predicted = self._predict(x, t, z, drawing.guidance)
            (x,) = solver.step(predicted, t, x, return_dict=False)
        return (self.network.components.pictures(x).clamp(-1, 1) + 1) / 2

    def _predict(self, x_t: Tensor, t: Tensor, z: Tensor, guidance: float) -> Tensor:
        """x̂_0 [n, k], by classifier-free guidance unless guidance is 1."""
        timesteps = t.to(x_t.device).expand(len(x_t))
        shown = torch.zeros(len(x_t), dtype=torch.bool, device=x_t.device)
        x_0: Tensor = self.network(x_t, timesteps, z, shown)
        if guidance != 1:
            unguided = self.network(x_t, timesteps, z, ~shown)
            x_0 = unguided + guidance * (x_0 - unguided)
        return x_0
