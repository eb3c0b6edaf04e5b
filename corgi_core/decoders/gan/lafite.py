"""Training of Lafite: the GAN, conditioned on pseudo text embeddings made from the images' own.

Zhou et al., "Towards Language-Free Training for Text-to-Image Generation", 2022, section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from corgi_core.config import LafiteSettings
from corgi_core.decoders.decoder import Decoder
from corgi_core.decoders.gan.decoder import LafiteDecoder
from corgi_core.decoders.gan.network import GanNetwork
from corgi_core.decoders.gan.task import GanTask
from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.training.randomness import StepRandom


@dataclass
class LafiteTask(GanTask):
    """Training of Lafite without language. Held-out images are decoded from image embeddings."""

    settings: LafiteSettings

    def decoder(self, model: GanNetwork, card: Mapping[str, Any]) -> Decoder:
        """The trained generator as a decoder."""
        return LafiteDecoder(model.generator, self.settings, self.embeddings.spec, card)

    def condition(self, z: Tensor, random: StepRandom) -> Tensor:
        """Pseudo text embeddings [n, d] of image embeddings z [n, d]."""
        noise = random.normal(z.shape[1])
        return pseudo_text(z, self.settings.perturbation, noise, self.encoder_dims)


def pseudo_text(z: Tensor, xi: float, noise: Tensor, encoder_dims: Sequence[int]) -> Tensor:
    """Lafite's fixed perturbation h = z + ξ ‖z‖ ε / ‖ε‖: a text is somewhere near its image.

    Args:
        z: Image embeddings [n, d], whose slice of every encoder has norm √d_b.
        xi: ξ, the distance in norms of z.
        noise: ε [n, d], standard normal.
        encoder_dims: d_b of the encoders.

    Returns:
        Embeddings [n, d]; the slice of every encoder has norm √d_b again.
    """
    return scale_per_encoder(z + xi * scale_per_encoder(noise, encoder_dims), encoder_dims)
