"""The discriminator: is a picture real, does it go with its embedding, and what does it show?

Residual blocks (StyleGAN2) down to 4 × 4, the deviation within small groups of pictures as a last
channel (Karras et al. 2018, section 3), then two heads (Lafite, section 3.2): a score, in which the
embedding is projected onto the features (Miyato and Koyama 2018), and semantic features, which a
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

SMALLEST = 4  # the side that features shrink to
RATE = 0.1  # it learns this much slower than the generator (two time-scales: Heusel et al. 2017)
GROUP = 4  # pictures whose deviation is looked at together; batches are multiples of it

slow_convolution, slow_linear = partial(Convolution, rate=RATE), partial(Linear, rate=RATE)


class Judgement(NamedTuple):
    """Of n pictures: score [n], high for real ones, and semantic features [n, d]."""

    score: Tensor
    semantic: Tensor


class ResidualBlock(nn.Module):
    """Half the side; two convolutions beside one that sees the halved input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = slow_convolution(inputs, inputs, 3)
        self.second = slow_convolution(inputs, outputs, 3, halves=True)
        self.beside = slow_convolution(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, s, s] → [n, outputs, s/2, s/2]."""
        change = leaky(self.second(leaky(self.first(x))))
        return (change + self.beside(halved(x))) * 2**-0.5


class Discriminator(nn.Module):
    """Judges pictures beside their embeddings."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        sides = shape.sides(SMALLEST)[::-1]
        last = shape.channels(SMALLEST)
        self.from_rgb = slow_convolution(3, shape.channels(sides[0]), 1)
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(shape.channels(side), shape.channels(below))
                for side, below in pairwise(sides)
            )
        )
        self.last = slow_convolution(last + 1, last, 3)
        self.features = slow_linear(last * SMALLEST**2, last)
        self.score = slow_linear(last, 1)
        self.projection = slow_linear(shape.embedding_width, last)
        self.semantic = slow_linear(last, shape.embedding_width)

    def forward(self, pictures: Tensor, white: Tensor) -> Judgement:
        """pictures [n, 3, s, s] in −1 … 1, whitened embeddings [n, d]; n is a multiple of GROUP."""
        x = self.blocks(leaky(self.from_rgb(pictures)))
        x = leaky(self.last(with_deviation(x)))
        features = leaky(self.features(x.flatten(1)))
        projected = (features * self.projection(white)).sum(dim=1) * features.shape[1] ** -0.5
        score = self.score(features).squeeze(1) + projected
        return Judgement(score.float(), self.semantic(features).float())


def with_deviation(x: Tensor) -> Tensor:
    """x [n, c, s, s] and one more channel: the mean deviation in the group of GROUP successive
    pictures. Successive, so that workers' parts of a batch hold whole groups."""
    groups = x.unflatten(0, (-1, GROUP))
    deviation = (groups.var(dim=1, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    channel = deviation.repeat_interleave(GROUP)[:, None, None, None]
    return torch.cat([x, channel.expand(-1, 1, *x.shape[2:])], dim=1)
