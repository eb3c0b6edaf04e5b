"""One stage: diffusers' UNet, told the embedding twice, as vectors and beside the timestep.

The embedding is projected to a few vectors, which the UNet's deeper levels attend to, and it is
added to the timestep's embedding, together with the level of the noise on the smaller picture (as
in unCLIP, Ramesh et al. 2022, section 2.1). A UNet without attention, for large pictures, has the
second alone. Captions' tokens, where a decoder reads them, follow the vectors.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from corgi_core.config import StageSettings
from corgi_core.decoders.decoder import Text
from corgi_core.decoders.noise import T
from corgi_core.diffusion.schedule import timestep_features

HEAD_WIDTH = 64
LEVEL_FEATURES = 32
GROUPS = 32  # of group norm at most, of four channels at least


class Stage(nn.Module):
    """A prediction from x_t, t, the white embedding, and the smaller picture if there is one."""

    def __init__(
        self,
        settings: StageSettings,
        embedding_width: int,
        vectors: int,
        vector_width: int,
        text_width: int | None,
        conditioned: bool,
    ) -> None:
        super().__init__()
        self.conditioned = conditioned
        self.nothing = nn.Parameter(torch.zeros(embedding_width))
        self.to_vectors: nn.Module | None = None
        self.to_words: nn.Module | None = None
        if settings.attention_levels:
            self.to_vectors = nn.Sequential(
                nn.Linear(embedding_width, vectors * vector_width),
                nn.Unflatten(1, (vectors, vector_width)),
                nn.LayerNorm(vector_width),
            )
            if text_width is not None:
                self.to_words = nn.Sequential(
                    nn.Linear(text_width, vector_width), nn.LayerNorm(vector_width)
                )
        self.unet = UNet2DConditionModel(
            sample_size=settings.size,
            in_channels=6 if conditioned else 3,
            out_channels=3,
            cross_attention_dim=vector_width,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=(
                embedding_width + (LEVEL_FEATURES if conditioned else 0)
            ),
            **_levels(settings),
        )
        # torch's convolutions on a CPU, and on tensor cores, are faster with channels last
        self.unet.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Self:
        """As always, but diffusers' residual blocks take themselves to be evaluated: all that they
        do for training is to put the channels first again. Their dropout, a module of its own,
        does what `mode` says."""
        super().train(mode)
        for module in self.unet.modules():
            if isinstance(module, ResnetBlock2D):
                module.training = False
        return self

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        level: Tensor,
        white: Tensor,
        dropped: Tensor,
        text: Text | None = None,
    ) -> Tensor:
        """[n, 3, s, s], float32, of x [n, 3, s, s], or [n, 6, s, s] with the smaller picture.

        Timesteps t [n], levels [n] in 0 … 1 of the condition's noise (the first stage does not
        look at them), white embeddings [n, d], of which `dropped` [n] are hidden.
        """
        told = torch.where(dropped[:, None], self.nothing, white)
        beside = (
            [told, timestep_features(level * T, LEVEL_FEATURES)] if self.conditioned else [told]
        )
        sequence, mask = self._attended(told, text)
        x = x.contiguous(memory_format=torch.channels_last)
        (predicted,) = self.unet(
            x, t, sequence, class_labels=torch.cat(beside, dim=1), encoder_attention_mask=mask,
            return_dict=False,
        )  # fmt: skip
        return predicted.float()

    def _attended(self, told: Tensor, text: Text | None) -> tuple[Tensor | None, Tensor | None]:
        """The vectors [n, v, w], or vectors and words [n, v + T, w] with what is there of them."""
        if self.to_vectors is None:
            return None, None
        vectors = self.to_vectors(told)
        if self.to_words is None or text is None:
            return vectors, None
        there = torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)
        sequence = torch.cat([vectors, self.to_words(text.tokens)], dim=1)
        return sequence, torch.cat([there, text.mask.bool()], dim=1)


def _levels(settings: StageSettings) -> dict[str, object]:
    """diffusers' names for a UNet whose last `attention_levels` levels, and its middle, attend."""
    channels, plain = settings.channels, len(settings.channels) - settings.attention_levels
    down = ["DownBlock2D"] * plain + ["CrossAttnDownBlock2D"] * settings.attention_levels
    up = ["CrossAttnUpBlock2D"] * settings.attention_levels + ["UpBlock2D"] * plain
    return {
        "block_out_channels": channels,
        "layers_per_block": settings.layers,
        "down_block_types": tuple(down),
        "mid_block_type": "UNetMidBlock2DCrossAttn"
        if settings.attention_levels
        else "UNetMidBlock2D",
        "up_block_types": tuple(up),
        "attention_head_dim": tuple(max(1, c // HEAD_WIDTH) for c in channels),  # number of heads
        "norm_num_groups": math.gcd(GROUPS, *(c // 4 for c in channels)),
    }
