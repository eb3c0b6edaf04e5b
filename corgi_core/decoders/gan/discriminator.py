"""The discriminator: whether an image is real and fits its embedding, and its semantic features.

Residual blocks (StyleGAN2) down to 4 × 4, the standard deviation within small groups of images as
a last channel (Karras et al. 2018, section 3), then two heads (Lafite, section 3.2): a score, with
the embedding projected onto the features (Miyato and Koyama 2018), and semantic features, which a
contrastive loss pulls to the embedding.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from corgi_core.decoders.gan.generator import GanShape
from corgi_core.decoders.gan.layers import Convolution, Linear, halved, leaky

MIN_SIZE = 4  # pixels, of the last features
RATE = 0.1  # its learning rate relative to the generator's (two time-scales: Heusel et al. 2017)
GROUP = 4  # images whose standard deviation is computed together; batches are multiples of it

slow_convolution, slow_linear = partial(Convolution, rate=RATE), partial(Linear, rate=RATE)


class Judgement(NamedTuple):
    """Of n images: score [n], high for real ones, and semantic features [n, d]."""

    score: Tensor
    semantic: Tensor


class ResidualBlock(nn.Module):
    """Halves the resolution: two convolutions, and a skip connection of the halved input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = slow_convolution(inputs, inputs, 3)
        self.second = slow_convolution(inputs, outputs, 3, halves=True)
        self.skip = slow_convolution(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, s, s] → [n, outputs, s/2, s/2]."""
        residual = leaky(self.second(leaky(self.first(x))))
        mean: Tensor = (residual + self.skip(halved(x))) * 2**-0.5
        return mean


class Discriminator(nn.Module):
    """Judges images and their embeddings."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        sides = shape.sides(MIN_SIZE)[::-1]
        last = shape.channels(MIN_SIZE)
        self.from_rgb = slow_convolution(3, shape.channels(sides[0]), 1)
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(shape.channels(side), shape.channels(below))
                for side, below in pairwise(sides)
            )
        )
        self.last = slow_convolution(last + 1, last, 3)
        self.features = slow_linear(last * MIN_SIZE**2, last)
        self.score = slow_linear(last, 1)
        self.projection = slow_linear(shape.embedding_width, last)
        self.semantic = slow_linear(last, shape.embedding_width)

    def forward(self, images: Tensor, white: Tensor) -> Judgement:
        """Images [n, 3, s, s] in −1 … 1, whitened embeddings [n, d]; n is a multiple of GROUP."""
        x = self.blocks(leaky(self.from_rgb(images)))
        x = leaky(self.last(with_std(x)))
        features = leaky(self.features(x.flatten(1)))
        projected = (features * self.projection(white)).sum(dim=1) * features.shape[1] ** -0.5
        score = self.score(features).squeeze(1) + projected
        return Judgement(score.float(), self.semantic(features).float())


def with_std(x: Tensor) -> Tensor:
    """Append to x [n, c, s, s] a channel: the mean standard deviation in a group of GROUP images.

    Groups are of successive images, so that the workers' parts of a batch hold whole groups.
    """
    groups = x.view(-1, GROUP, *x.shape[1:])
    std = (groups.var(dim=1, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    channel = std.repeat_interleave(GROUP)[:, None, None, None]
    return torch.cat([x, channel.expand(-1, 1, *x.shape[2:])], dim=1)
