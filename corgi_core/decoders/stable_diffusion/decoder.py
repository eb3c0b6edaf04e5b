"""The Stable Diffusion decoder: latents drawn by a few steps of DPM-Solver++, then the VAE."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from corgi_core.config import StableDiffusionSettings
from corgi_core.decoders.decoder import Decoder, Drawing, Text
from corgi_core.decoders.stable_diffusion.network import (
    PIXELS_AT_ONCE,
    StableDiffusionNetwork,
    StableDiffusionShape,
)
from corgi_core.decoders.stable_diffusion.noise import few_step_solver, forward_process
from corgi_core.diffusion.samplers import noise_for
from corgi_core.errors import CorgiError


class StableDiffusionDecoder(Decoder):
    """Draws with Stable Diffusion 2, guided away from a negative embedding."""

    network: StableDiffusionNetwork
    settings: StableDiffusionSettings
    _negative: Tensor | None = None  # a prior's, instead of the network's own

    @classmethod
    def build(cls, shape: Mapping[str, Any]) -> nn.Module:
        return StableDiffusionNetwork.untrained(StableDiffusionShape(**shape))

    @property
    def most_steps(self) -> int:  # type: ignore[override]  # of the pipeline, not of the kind
        """T of the pipeline's noise schedule."""
        return int(forward_process(self.network.shape.scheduler).config["num_train_timesteps"])

    @property
    def wants_negative(self) -> bool:
        return self.settings.negative == "prior"

    def with_negative(self, embedding: Tensor) -> Self:
        """This decoder, with guidance that starts from an embedding [d]."""
        if embedding.shape != (self.width,):
            raise CorgiError(
                f"the negative embedding has shape {list(embedding.shape)}, "
                f"this decoder needs [{self.width}]",
                "draw it with the prior that the decoder belongs to",
            )
        guided = copy.copy(self)
        guided._negative = embedding
        return guided

    def draw(self, z: Tensor, text: Text | None, drawing: Drawing) -> Tensor:
        side = self.settings.image_size // self.network.shrinking
        channels = self.network.vae.config["latent_channels"]
        noise = noise_for(drawing.seed, drawing.first, len(z), (channels, side, side))
        at_once = max(1, PIXELS_AT_ONCE // self.settings.image_size**2)
        drawn = [
            self._draw(some.to(z.device), rows, drawing)
            for some, rows in zip(noise.split(at_once), z.split(at_once), strict=True)
        ]
        return (torch.cat(drawn).clamp(-1, 1) + 1) / 2

    def _draw(self, noise: Tensor, z: Tensor, drawing: Drawing) -> Tensor:
        solver = few_step_solver(self.network.shape.scheduler, drawing.steps)
        x = noise * solver.init_noise_sigma
        for t in solver.timesteps:
            predicted = self.predict(x, t, z, drawing.guidance)
            (x,) = solver.step(predicted, t, x, return_dict=False)
        return self.network.pictures(x)

    def predict(self, x_t: Tensor, t: Tensor, z: Tensor, guidance: float) -> Tensor:
        """ε = ε(negative) + w (ε(z) − ε(negative)) for guidance w, velocities likewise.

        Latents x_t [n, c, h, w] at one timestep t, embeddings z [n, d] → [n, c, h, w].
        """
        timesteps = t.to(x_t.device).expand(len(x_t))
        shown = torch.zeros(len(x_t), dtype=torch.bool, device=x_t.device)
        predicted: Tensor = self.network(x_t, timesteps, z, shown)
        if guidance != 1:
            own = self.network.conditioning.negative
            negative = (own if self._negative is None else self._negative.to(z)).expand_as(z)
            unguided = self.network(x_t, timesteps, negative, shown)
            predicted = unguided + guidance * (predicted - unguided)
        return predicted
