"""The GAN decoders: the generator alone, an image a forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from corgi_core.decoders.decoder import Decoder, SampleOptions, TextCond, unsigned
from corgi_core.decoders.gan.generator import GanShape, Generator
from corgi_core.diffusion.samplers import noise_for


class GanDecoder(Decoder):
    """Decodes an embedding in one forward pass. The discriminator is not part of the decoder."""

    network: Generator

    @classmethod
    def build(cls, shape: Mapping[str, Any]) -> nn.Module:
        """The untrained generator of a saved shape."""
        return Generator(GanShape(**shape))

    def sample(self, z: Tensor, text: TextCond | None, options: SampleOptions) -> Tensor:
        """Images [n, 3, s, s] in [0, 1] of embeddings [n, d]: see `Decoder.sample`."""
        latent = noise_for(options.seed, options.sample_ids, (self.network.shape.latent_width,))
        return unsigned(self.network(z, latent.to(z.device)))


class LafiteDecoder(GanDecoder):
    """The GAN decoder of CLIP's text embeddings, which needs no prior: the paper's baseline."""

    input_kind: ClassVar[Literal["image", "text"]] = "text"
