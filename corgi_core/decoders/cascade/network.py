"""All stages of a cascade as one network, and the low-resolution image that links two stages.

A stage is trained on downsampled real images, and samples from what the stage before has sampled.
Noise of a random level hides the difference; the UNet is conditioned on the level (conditioning
augmentation: Ho et al., Cascaded Diffusion Models, 2022, section 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.config import CascadeSettings, StageSettings
from corgi_core.decoders.cascade.unet import Stage
from corgi_core.decoders.decoder import TextCond
from corgi_core.decoders.whitening import Whitening


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
    """The stages. They share nothing but the whitening of the embeddings."""

    def __init__(self, shape: CascadeShape) -> None:
        super().__init__()
        self.shape = shape
        self.whitening = Whitening(shape.embedding_width)
        self.stages = nn.ModuleList(
            Stage(
                stage, shape.embedding_width, shape.vectors, shape.vector_width, shape.text_width,
                upsamples=number > 0,
            )
            for number, stage in enumerate(shape.stages)
        )  # fmt: skip

    def forward(
        self,
        x: Sequence[Tensor],
        t: Sequence[Tensor],
        levels: Sequence[Tensor],
        z: Tensor,
        cond_mask: Tensor,
        text: TextCond | None = None,
    ) -> list[Tensor]:
        """The predictions of all stages; x, t and levels have an item for each stage.

        Args:
            x: Inputs of the stages, [n, 3, s, s] or, with the low-resolution image, [n, 6, s, s].
            t: Timesteps [n].
            levels: Noise levels [n] of the low-resolution images, in 0 … 1.
            z: Embeddings [n, d].
            cond_mask: [n], false where a learned vector replaces the embedding.
            text: The captions, for a cascade that reads them.

        Returns:
            A prediction [n, 3, s, s], float32, for each stage.
        """
        white = self.whitening(z)
        inputs = zip(self.stages, x, t, levels, strict=True)
        return [stage(*stage_inputs, white, cond_mask, text) for stage, *stage_inputs in inputs]


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
