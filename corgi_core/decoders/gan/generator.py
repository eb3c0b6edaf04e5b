"""The generator: a latent and an embedding → an image, in one forward pass (StyleGAN2).

A mapping network maps the latent to w. The style of every layer depends on w and the whitened
embedding, as in Lafite. Features begin at 8 × 8, as a linear map of the embedding, and are doubled.
(From StyleGAN2's constant 4 × 4 the layout is learned later.) Each resolution adds its own RGB to
the doubled one before (skip connections: Karras et al. 2020, section 4.1). No noise is added to the
layers: it sticks to pixels, not to objects (Karras et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from corgi_core.decoders.gan.layers import Linear, doubled, leaky
from corgi_core.decoders.gan.modulation import ConditionalStyle, ModulatedConvolution
from corgi_core.decoders.whitening import Whitening

START = 8  # pixels, of the first features; 4 for images of 8 pixels
MAPPING_LAYERS = 2
MAPPING_RATE = 0.01  # learning rate of the mapping network relative to the others'


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
        """Pixels to a side of the first features."""
        return min(START, self.image_size // 2)

    def sides(self, smallest: int) -> tuple[int, ...]:
        """smallest, 2 · smallest, … image_size."""
        doublings = (self.image_size // smallest).bit_length()
        return tuple(smallest << i for i in range(doublings))

    def channels(self, side: int) -> int:
        """Number of channels at the resolution side × side."""
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
        """Features x [n, inputs, s, s], or s / 2 if it doubles → [n, outputs, s, s]."""
        if self._doubles:
            x = doubled(x)
        x = self.convolution(x, self.style(w, white))
        return leaky(x + self.bias[:, None, None])


class ToRGB(nn.Module):
    """What a resolution adds to the image."""

    def __init__(self, shape: GanShape, side: int) -> None:
        super().__init__()
        channels = shape.channels(side)
        self.style = ConditionalStyle(shape.latent_width, shape.embedding_width, channels)
        self.convolution = ModulatedConvolution(channels, 3, 1, demodulates=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor, white: Tensor) -> Tensor:
        """Features x [n, channels, s, s] → [n, 3, s, s]."""
        rgb: Tensor = self.convolution(x, self.style(w, white))
        return rgb + self.bias[:, None, None]


class Generator(nn.Module):
    """Images of embeddings and latents."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        self.shape = shape
        self.mapping = nn.ModuleList(
            Linear(shape.latent_width, shape.latent_width, rate=MAPPING_RATE)
            for _ in range(MAPPING_LAYERS)
        )
        self.whitening = Whitening(shape.embedding_width)
        sides, first = shape.sides(shape.start), shape.channels(shape.start)
        self.start = Linear(shape.embedding_width, first * shape.start**2)
        layers = [SynthesisLayer(shape, first, shape.start, doubles=False)]
        for below, side in pairwise(sides):
            layers.append(SynthesisLayer(shape, shape.channels(below), side, doubles=True))
            layers.append(SynthesisLayer(shape, shape.channels(side), side, doubles=False))
        self.layers = nn.ModuleList(layers)
        self.to_rgb = nn.ModuleList(ToRGB(shape, side) for side in sides)

    def forward(self, z: Tensor, latent: Tensor) -> Tensor:
        """Embeddings z [n, d], latents [n, latent_width] → images [n, 3, s, s], about −1 … 1."""
        return self.synthesise(self.map(latent), self.whitening(z))

    def map(self, latent: Tensor) -> Tensor:
        """Standard normal latents, normalised to the sphere → w [n, latent_width]."""
        w = latent * (latent.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping:
            w = leaky(layer(w))
        return w

    def synthesise(self, w: Tensor, white: Tensor) -> Tensor:
        """Images [n, 3, s, s] of w [n, latent_width] and whitened embeddings [n, d]."""
        layers = iter(self.layers)
        start = self.start(white).unflatten(1, (-1, self.shape.start, self.shape.start))
        x = next(layers)(start.contiguous(memory_format=torch.channels_last), w, white)
        rgb: Tensor = self.to_rgb[0](x, w, white)
        for to_rgb in list(self.to_rgb)[1:]:
            for _ in range(2):
                x = next(layers)(x, w, white)
            rgb = doubled(rgb) + to_rgb(x, w, white)
        return rgb.float()
