"""The generator: noise and an embedding → a picture, in one pass (StyleGAN2, told as Lafite is).

A mapping network turns a part of the noise into w, which every layer's style hears beside the
embedding. Pictures grow from a learned 4 × 4 by doubling; each resolution adds its own RGB to the
doubled one before (skip connections: Karras et al. 2020, section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from corgi_core.decoders.gan.layers import Linear, doubled, leaky
from corgi_core.decoders.gan.modulation import ConditionalStyle, ModulatedConvolution

SMALLEST = 4  # the side that pictures grow from
MAPPING_LAYERS = 2
MAPPING_RATE = 0.01  # the mapping learns this much slower


@dataclass(frozen=True)
class GanShape:
    """What both networks are built from. `image_size` is a power of two, 8 or more."""

    embedding_width: int
    image_size: int
    latent_width: int  # of the mapping network's input and output
    channel_base: int  # there are channel_base / side channels …
    channel_most: int  # … but no more than this

    @property
    def sides(self) -> tuple[int, ...]:
        """4, 8, … image_size."""
        doublings = (self.image_size // SMALLEST).bit_length()
        return tuple(SMALLEST << i for i in range(doublings))

    @property
    def noise_parts(self) -> tuple[int, ...]:
        """Standard normal numbers that a picture needs: its latent's, then each layer's."""
        return (self.latent_width, SMALLEST**2, *(s**2 for s in self.sides[1:] for _ in range(2)))

    @property
    def noise_width(self) -> int:
        """All of them, which are one vector."""
        return sum(self.noise_parts)

    def channels(self, side: int) -> int:
        """At the resolution side × side."""
        return min(self.channel_most, self.channel_base // side)


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise of a learned strength, bias, leaky ReLU."""

    strength: nn.Parameter

    def __init__(self, shape: GanShape, inputs: int, side: int, *, doubles: bool) -> None:
        super().__init__()
        outputs = shape.channels(side)
        self.side, self._doubles = side, doubles
        self.style = ConditionalStyle(shape.latent_width, shape.embedding_width, inputs)
        self.convolution = ModulatedConvolution(inputs, outputs, 3)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor, z: Tensor, noise: Tensor) -> Tensor:
        """x [n, inputs, s, s], or s / 2 where it doubles, noise [n, s · s] → [n, outputs, s, s]."""
        if self._doubles:
            x = doubled(x)
        x = self.convolution(x, self.style(w, z))
        noise = noise.unflatten(1, (1, self.side, self.side))
        return leaky(x + self.strength * noise + self.bias[:, None, None])


class ToRGB(nn.Module):
    """A resolution's part of the picture."""

    def __init__(self, shape: GanShape, side: int) -> None:
        super().__init__()
        channels = shape.channels(side)
        self.style = ConditionalStyle(shape.latent_width, shape.embedding_width, channels)
        self.convolution = ModulatedConvolution(channels, 3, 1, demodulates=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor, z: Tensor) -> Tensor:
        """[n, channels, s, s] → [n, 3, s, s]."""
        return self.convolution(x, self.style(w, z)) + self.bias[:, None, None]


class Generator(nn.Module):
    """Pictures of embeddings."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        self.shape = shape
        self.mapping = nn.ModuleList(
            Linear(shape.latent_width, shape.latent_width, rate=MAPPING_RATE)
            for _ in range(MAPPING_LAYERS)
        )
        first = shape.channels(SMALLEST)
        self.start = nn.Parameter(torch.randn(first, SMALLEST, SMALLEST))
        layers = [SynthesisLayer(shape, first, SMALLEST, doubles=False)]
        for below, side in pairwise(shape.sides):
            layers.append(SynthesisLayer(shape, shape.channels(below), side, doubles=True))
            layers.append(SynthesisLayer(shape, shape.channels(side), side, doubles=False))
        self.layers = nn.ModuleList(layers)
        self.to_rgb = nn.ModuleList(ToRGB(shape, side) for side in shape.sides)

    def forward(self, z: Tensor, noise: Tensor) -> Tensor:
        """Embeddings z [n, d], noise [n, noise_width] → pictures [n, 3, s, s], −1 … 1 or so."""
        return self.synthesise(self.map(noise), z, noise)

    def map(self, noise: Tensor) -> Tensor:
        """w [n, latent_width], of the latent on the sphere."""
        latent = noise[:, : self.shape.latent_width]
        w = latent * (latent.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping:
            w = leaky(layer(w))
        return w

    def synthesise(self, w: Tensor, z: Tensor, noise: Tensor) -> Tensor:
        """Pictures [n, 3, s, s] of w [n, latent_width], z [n, d] and the layers' noise."""
        noises = iter(noise.split(self.shape.noise_parts, dim=1)[1:])
        layers = iter(self.layers)
        x = next(layers)(self.start.expand(len(w), -1, -1, -1), w, z, next(noises))
        rgb: Tensor = self.to_rgb[0](x, w, z)
        for to_rgb in list(self.to_rgb)[1:]:
            for _ in range(2):
                x = next(layers)(x, w, z, next(noises))
            rgb = doubled(rgb) + to_rgb(x, w, z)
        return rgb.float()
