"""All stages of a cascade as one network, so that one run of the training loop trains them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from corgi_core.config import CascadeSettings, StageSettings
from corgi_core.decoders.cascade.unet import Stage
from corgi_core.decoders.decoder import Text
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
        return cls(
            embedding_width, settings.vectors, settings.vector_width, settings.text_width,
            settings.stages,
        )  # fmt: skip


class CascadeNetwork(nn.Module):
    """The stages, which share nothing but the whitening of the embeddings."""

    def __init__(self, shape: CascadeShape) -> None:
        super().__init__()
        self.shape = shape
        self.white = Whitening(shape.embedding_width)
        self.stages = nn.ModuleList(
            Stage(
                stage, shape.embedding_width, shape.vectors, shape.vector_width, shape.text_width,
                conditioned=number > 0,
            )
            for number, stage in enumerate(shape.stages)
        )  # fmt: skip

    def forward(
        self,
        x: Sequence[Tensor],
        t: Sequence[Tensor],
        levels: Sequence[Tensor],
        z: Tensor,
        dropped: Tensor,
        text: Text | None = None,
    ) -> list[Tensor]:
        """Every stage's prediction, float32 [n, 3, s, s] each, as `Stage` does it.

        x, t and levels have an item for each stage; z [n, d] are embeddings.
        """
        white = self.white(z)
        inputs = zip(self.stages, x, t, levels, strict=True)
        return [stage(*stage_inputs, white, dropped, text) for stage, *stage_inputs in inputs]
