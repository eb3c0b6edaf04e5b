"""One stage of a cascade: diffusers' UNet, conditioned on the embedding in two ways.

The embedding is projected to a few vectors, which the deeper levels of the UNet attend to. It is
also added to the timestep's embedding, together with the noise level of the low-resolution image
(as in unCLIP, Ramesh et al. 2022, section 2.1). A UNet without attention, for large images, has the
second only. The tokens of captions, if a decoder reads them, follow the vectors.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from corgi_core.config import StageSettings
from corgi_core.decoders.decoder import TextCond
from corgi_core.decoders.whitening import Whitening
from corgi_core.diffusion.schedule import TIMESTEPS, timestep_features

HEAD_WIDTH = 64
LEVEL_FEATURES = 32
MAX_GROUPS = 32  # of group norm; a group has at least four channels


class Stage(nn.Module):
    """A prediction from x_t, t and the embedding, and a low-resolution image or none.

    It whitens embeddings by itself, since stages are trained one after the other: two nodes may
    find eigenvectors of different signs.
    """

    def __init__(
        self,
        settings: StageSettings,
        embedding_width: int,
        vectors: int,
        vector_width: int,
        text_width: int | None,
        upsamples: bool,
    ) -> None:
        super().__init__()
        self.upsamples = upsamples
        self.whitening = Whitening(embedding_width)
        self.null_embedding = nn.Parameter(torch.zeros(embedding_width))
        self.to_vectors: nn.Module | None = None
        self.text_projection: nn.Module | None = None
        if settings.attention_levels:
            self.to_vectors = nn.Sequential(
                nn.Linear(embedding_width, vectors * vector_width),
                nn.Unflatten(1, (vectors, vector_width)),
                nn.LayerNorm(vector_width),
            )
            if text_width is not None:
                self.text_projection = nn.Sequential(
                    nn.Linear(text_width, vector_width), nn.LayerNorm(vector_width)
                )
        self.unet = UNet2DConditionModel(
            sample_size=settings.size,
            in_channels=6 if upsamples else 3,
            out_channels=3,
            cross_attention_dim=vector_width,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=(
                embedding_width + (LEVEL_FEATURES if upsamples else 0)
            ),
            **_levels(settings),
        )
        # torch's convolutions on a CPU, and on tensor cores, are faster with channels last
        self.unet.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules except diffusers' residual blocks, which always evaluate.

        All that these do for training is to put the channels first again. Their dropout, a module
        of its own, gets the mode.
        """
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
        z: Tensor,
        cond_mask: Tensor,
        text: TextCond | None = None,
    ) -> Tensor:
        """Predict what the cascade's `prediction` says.

        Args:
            x: x_t [n, 3, s, s], or [n, 6, s, s] with the upsampled low-resolution image.
            t: Timesteps [n].
            level: Noise level [n] of the low-resolution image, in 0 … 1; unused without one.
            z: Embeddings [n, d].
            cond_mask: [n], false where a learned vector replaces the embedding.
            text: The captions, for a cascade that reads them.

        Returns:
            The prediction [n, 3, s, s], float32.
        """
        cond = torch.where(cond_mask[:, None], self.whitening(z), self.null_embedding)
        added = [cond]
        if self.upsamples:
            added.append(timestep_features(level * TIMESTEPS, LEVEL_FEATURES))
        sequence, attn_mask = self._attended(cond, text)
        output: tuple[Tensor] = self.unet(
            x.contiguous(memory_format=torch.channels_last), t, sequence,
            class_labels=torch.cat(added, dim=1), encoder_attention_mask=attn_mask,
            return_dict=False,
        )  # fmt: skip
        return output[0].float()

    def _attended(self, cond: Tensor, text: TextCond | None) -> tuple[Tensor | None, Tensor | None]:
        """Vectors [n, v, w]; with text, vectors and tokens [n, v + T, w] and their attn_mask."""
        if self.to_vectors is None:
            return None, None
        vectors = self.to_vectors(cond)
        if self.text_projection is None or text is None:
            return vectors, None
        all_vectors = torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)
        sequence = torch.cat([vectors, self.text_projection(text.tokens)], dim=1)
        return sequence, torch.cat([all_vectors, text.attn_mask.bool()], dim=1)


def _levels(settings: StageSettings) -> dict[str, Any]:
    """Diffusers' names for a UNet whose last `attention_levels` levels, and its middle, attend."""
    attending = settings.attention_levels
    channels, plain = settings.channels, len(settings.channels) - attending
    return {
        "block_out_channels": channels,
        "layers_per_block": settings.layers,
        "down_block_types": ("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * attending,
        "mid_block_type": "UNetMidBlock2DCrossAttn" if attending else "UNetMidBlock2D",
        "up_block_types": ("CrossAttnUpBlock2D",) * attending + ("UpBlock2D",) * plain,
        "attention_head_dim": tuple(max(1, c // HEAD_WIDTH) for c in channels),  # number of heads
        "norm_num_groups": math.gcd(MAX_GROUPS, *(c // 4 for c in channels)),
    }
