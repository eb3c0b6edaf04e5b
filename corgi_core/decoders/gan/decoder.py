"""The GAN decoder: the generator alone, a picture a pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from corgi_core.decoders.decoder import Decoder, Drawing, Text
from corgi_core.decoders.gan.generator import GanShape, Generator
from corgi_core.diffusion.samplers import noise_for


class GanDecoder(Decoder):
    """Draws in one pass. The discriminator stays in the training's folder."""

    network: Generator

    @classmethod
    def build(cls, shape: Mapping[str, Any]) -> nn.Module:
        return Generator(GanShape(**shape))

    def draw(self, z: Tensor, text: Text | None, drawing: Drawing) -> Tensor:
        latent = noise_for(drawing.seed, drawing.first, len(z), (self.network.shape.latent_width,))
        pictures: Tensor = self.network(z, latent.to(z.device))
        return (pictures.clamp(-1, 1) + 1) / 2
