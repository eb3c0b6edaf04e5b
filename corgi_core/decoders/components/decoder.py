"""The components decoder: pictures drawn by a few steps of diffusion over their coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from corgi_core.config import ComponentsSettings, DecoderSettings
from corgi_core.decoders.components.network import ComponentsNetwork, ComponentsShape
from corgi_core.decoders.decoder import Decoder, Drawing, Text
from corgi_core.decoders.noise import T, few_step_solver
from corgi_core.diffusion.samplers import noise_for


class ComponentsDecoder(Decoder):
    """Draws small pictures along their principal components."""

    kind: ClassVar[str] = "components"
    settings_class: ClassVar[type[DecoderSettings]] = ComponentsSettings
    most_steps: ClassVar[int] = T

    network: ComponentsNetwork
    settings: ComponentsSettings

    @classmethod
    def build(cls, shape: Mapping[str, Any]) -> nn.Module:
        return ComponentsNetwork(ComponentsShape(**shape))

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
