"""What Lafite learns: the GAN, told pseudo text embeddings that are made of the images' own.

Zhou et al., "Towards Language-Free Training for Text-to-Image Generation", 2022, section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from corgi_core.config import LafiteSettings
from corgi_core.decoders.decoder import Decoder
from corgi_core.decoders.gan.network import GanNetwork
from corgi_core.decoders.gan.task import GanTask
from corgi_core.decoders.lafite.decoder import LafiteDecoder
from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.training.randomness import StepRandom


@dataclass
class LafiteTask(GanTask):
    """Training of Lafite without language. Its held-out pictures are drawn from images."""

    settings: LafiteSettings

    def decoder(self, model: GanNetwork, card: Mapping[str, Any]) -> Decoder:
        return LafiteDecoder(model.generator, self.settings, self.embeddings.spec, card)

    def condition(self, z: Tensor, random: StepRandom) -> Tensor:
        noise = random.normal(z.shape[1])
        return pseudo_text(z, self.settings.perturbation, noise, self.encoder_dims)


def pseudo_text(z: Tensor, xi: float, noise: Tensor, encoder_dims: Sequence[int]) -> Tensor:
    """h = z + ξ ‖z‖ ε / ‖ε‖, per block and again of norm √d_b (Lafite's fixed perturbation).

    z [n, d] with blocks of norm √d_b, ε = noise [n, d] → [n, d]. A text is somewhere near its
    image, as far as the image alone can say.
    """
    return scale_per_encoder(z + xi * scale_per_encoder(noise, encoder_dims), encoder_dims)
