"""All stages of a cascade, and the low-resolution image that links two of them.

A stage is trained on downsampled real images, and samples from what the stage before has sampled.
Noise of a random level hides the difference; the UNet is conditioned on the level (conditioning
augmentation: Ho et al., Cascaded Diffusion Models, 2022, section 4.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.config import CascadeSettings, StageSettings
from corgi_core.decoders.cascade.unet import Stage


@dataclass(frozen=True)
class CascadeShape:
    """What the network is built from."""

    embedding_width: int
    vectors: int
    vector_width: int
    text_width: int | None
    stages: tuple[StageSettings, ...]

    @classmethod
    def of(cls, settings: CascadeSettings, embedding_width: int) -> CascadeShape:
        """The shape of a cascade with these settings."""
        return cls(
            embedding_width, settings.vectors, settings.vector_width, settings.text_width,
            settings.stages,
        )  # fmt: skip


class CascadeNetwork(nn.Module):
    """The stages, which share nothing: a stage's output is the input of the next one."""

    def __init__(self, shape: CascadeShape) -> None:
        super().__init__()
        self.shape = shape
        self.stages = nn.ModuleList(stage_of(shape, n) for n in range(len(shape.stages)))

    @classmethod
    def of_stages(cls, shape: CascadeShape, stages: Mapping[int, Stage]) -> Self:
        """The network of stages by number. Those that are missing have no weights in memory."""
        with torch.device("meta"):
            network = cls(shape)
        for number, stage in stages.items():
            network.stages[number] = stage
        return network


def stage_of(shape: CascadeShape, number: int) -> Stage:
    """The untrained stage of that number."""
    return Stage(
        shape.stages[number], shape.embedding_width, shape.vectors, shape.vector_width,
        shape.text_width, upsamples=number > 0,
    )  # fmt: skip


def downsampled(images: Tensor, size: int) -> Tensor:
    """Images [n, 3, s, s] → [n, 3, size, size], means over squares; s is a multiple of size."""
    return F.avg_pool2d(images, images.shape[-1] // size)


def noised(low: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """√(1 − a²) low + a noise, for low and noise [n, 3, s, s] and levels a [n] in 0 … 1."""
    a = level.view(-1, 1, 1, 1)
    return (1 - a.square()).sqrt() * low + a * noise


def upsampled(low: Tensor, size: int) -> Tensor:
    """[n, 3, s, s] → [n, 3, size, size], the channels that a stage gets beside its noisy image."""
    return F.interpolate(low, size=(size, size), mode="bilinear", align_corners=False)
