"""The generator: a latent and an embedding → a picture, in one pass (StyleGAN2, told as Lafite is).

A mapping network turns the latent into w, which every layer's style hears beside the whitened
embedding. Pictures grow from 8 × 8, which a linear map of the embedding fills, by doubling. (From
StyleGAN2's constant 4 × 4 it learns later what is where.) Each resolution adds its own RGB to the
doubled one before (skip connections: Karras et al. 2020, section 4.1). No noise is added to the
layers: it sticks to the pixels, not to what is drawn (Karras et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from corgi_core.decoders.gan.layers import Linear, doubled, leaky
from corgi_core.decoders.gan.modulation import ConditionalStyle, ModulatedConvolution
from corgi_core.decoders.whitening import Whitening

START = 8  # the side that pictures grow from; those of 8 pixels grow from 4
MAPPING_LAYERS = 2
MAPPING_RATE = 0.01  # the mapping learns this much slower


@dataclass(frozen=True)
class GanShape:
    """What both networks are built from. `image_size` is a power of two, 8 or more."""

    embedding_width: int
    image_size: int
    latent_width: int  # of the mapping network's input and output
    channel_base: int  # there are channel_base / side channels …
    max_channels: int  # … but no more than this

    @property
    def start(self) -> int:
        """The side that the generator's pictures grow from."""
        return min(START, self.image_size // 2)

    def sides(self, smallest: int) -> tuple[int, ...]:
        """smallest, 2 · smallest, … image_size."""
        doublings = (self.image_size // smallest).bit_length()
        return tuple(smallest << i for i in range(doublings))

    def channels(self, side: int) -> int:
        """At the resolution side × side."""
        return min(self.max_channels, self.channel_base // side)


class SynthesisLayer(nn.Module):
    """Modulated convolution, bias, leaky ReLU."""

    def __init__(self, shape: GanShape, inputs: int, side: int, *, doubles: bool) -> None:
        super().__init__()
        outputs = shape.channels(side)
        self._doubles = doubles
        self.style = ConditionalStyle(shape.latent_width, shape.embedding_width, inputs)
        self.convolution = ModulatedConvolution(inputs, outputs, 3)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor, white: Tensor) -> Tensor:
        """x [n, inputs, s, s], or s / 2 where it doubles → [n, outputs, s, s]."""
        if self._doubles:
            x = doubled(x)
        x = self.convolution(x, self.style(w, white))
        return leaky(x + self.bias[:, None, None])


class ToRGB(nn.Module):
    """A resolution's part of the picture."""

    def __init__(self, shape: GanShape, side: int) -> None:
        super().__init__()
        channels = shape.channels(side)
        self.style = ConditionalStyle(shape.latent_width, shape.embedding_width, channels)
        self.convolution = ModulatedConvolution(channels, 3, 1, demodulates=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor, white: Tensor) -> Tensor:
        """[n, channels, s, s] → [n, 3, s, s]."""
        return self.convolution(x, self.style(w, white)) + self.bias[:, None, None]


class Generator(nn.Module):
    """Pictures of embeddings."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        self.shape = shape
        self.mapping = nn.ModuleList(
            Linear(shape.latent_width, shape.latent_width, rate=MAPPING_RATE)
            for _ in range(MAPPING_LAYERS)
        )
        self.white = Whitening(shape.embedding_width)
        sides, first = shape.sides(shape.start), shape.channels(shape.start)
        self.start = Linear(shape.embedding_width, first * shape.start**2)
        layers = [SynthesisLayer(shape, first, shape.start, doubles=False)]
        for below, side in pairwise(sides):
            layers.append(SynthesisLayer(shape, shape.channels(below), side, doubles=True))
            layers.append(SynthesisLayer(shape, shape.channels(side), side, doubles=False))
        self.layers = nn.ModuleList(layers)
        self.to_rgb = nn.ModuleList(ToRGB(shape, side) for side in sides)

    def forward(self, z: Tensor, latent: Tensor) -> Tensor:
        """Embeddings z [n, d], latents [n, latent_width] → pictures [n, 3, s, s], −1 … 1 or so."""
        return self.synthesise(self.map(latent), self.white(z))

    def map(self, latent: Tensor) -> Tensor:
        """w [n, latent_width] of standard normal latents, which are put on the sphere."""
        w = latent * (latent.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping:
            w = leaky(layer(w))
        return w

    def synthesise(self, w: Tensor, white: Tensor) -> Tensor:
        """Pictures [n, 3, s, s] of w [n, latent_width] and whitened embeddings [n, d]."""
        layers = iter(self.layers)
        start = self.start(white).unflatten(1, (-1, self.shape.start, self.shape.start))
        x = next(layers)(start.contiguous(memory_format=torch.channels_last), w, white)
        rgb: Tensor = self.to_rgb[0](x, w, white)
        for to_rgb in list(self.to_rgb)[1:]:
            for _ in range(2):
                x = next(layers)(x, w, white)
            rgb = doubled(rgb) + to_rgb(x, w, white)
        return rgb.float()
