"""The decoder's network: diffusers' UNet on patches of pixels, told the embedding three ways.

Eight vectors projected from the embedding are attended to, as in the paper; the embedding is also
added to the time embedding (DALL-E 2, section 2.1); and a linear map draws it as a coarse picture
beside the noisy one, which gives the first, nearly blind steps a place to start from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

COARSE_CHANNELS = 16
HEAD_WIDTH = 64


@dataclass(frozen=True)
class DecoderShape:
    """What the network is built from."""

    embedding_width: int
    image_size: int
    patch: int
    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    layers_per_block: int
    vectors: int


class DecoderNetwork(nn.Module):
    """x̂_0(x_t, t, z): pictures in [−1, 1], predicted directly."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        self.shape = shape
        self.side = shape.image_size // shape.patch
        pixels = 3 * shape.patch**2
        width = shape.channels[-1]
        self.nothing = nn.Parameter(torch.zeros(shape.embedding_width))
        self.to_vectors = nn.Linear(shape.embedding_width, shape.vectors * width)
        self.to_coarse = nn.Linear(shape.embedding_width, COARSE_CHANNELS * self.side**2)
        self.unet = UNet2DConditionModel(
            sample_size=self.side,
            in_channels=pixels + COARSE_CHANNELS,
            out_channels=pixels,
            block_out_channels=shape.channels,
            down_block_types=tuple(
                "CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in shape.attention
            ),
            up_block_types=tuple(
                "CrossAttnUpBlock2D" if attends else "UpBlock2D"
                for attends in reversed(shape.attention)
            ),
            layers_per_block=shape.layers_per_block,
            cross_attention_dim=width,
            # diffusers takes the number of heads under this name
            attention_head_dim=tuple(max(1, c // HEAD_WIDTH) for c in shape.channels),
            norm_num_groups=16,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=shape.embedding_width,
            resnet_time_scale_shift="scale_shift",
        )
        self.unet.to(memory_format=torch.channels_last)

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor, dropped: Tensor) -> Tensor:
        """Predict x_0 [n, 3, s, s] from x_t, timesteps t [n] and embeddings z [n, d].

        Where `dropped` [n] is true, the embedding is replaced by the learned `nothing`.
        """
        z = torch.where(dropped[:, None], self.nothing, z)
        vectors = self.to_vectors(z).unflatten(1, (self.shape.vectors, -1))
        coarse = self.to_coarse(z).unflatten(1, (COARSE_CHANNELS, self.side, self.side))
        patches = torch.cat([F.pixel_unshuffle(x_t, self.shape.patch), coarse], dim=1)
        patches = patches.contiguous(memory_format=torch.channels_last)
        predicted = self.unet(patches, t, vectors, class_labels=z).sample
        return F.pixel_shuffle(predicted.float(), self.shape.patch)
