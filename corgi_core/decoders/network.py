"""The decoder's network: diffusers' UNet on patches of pixels, told the embedding three ways.

Eight vectors projected from the embedding are attended to, as in the paper; the embedding is also
added to the time embedding (DALL-E 2, section 2.1); and it is drawn as a coarse picture, which the
UNet sees beside the noisy one and corrects, so nearly blind steps have a place to start from.

CLIP embeddings lie in a narrow cone, most of their variance in few directions. They are whitened
first, by the training images' statistics, so that what tells two pictures apart is not faint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN_WIDTH = 768
FAINTEST = 0.1  # directions with less than this part of the mean variance are not amplified further
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

    centre: Tensor
    whitening: Tensor

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        self.shape = shape
        self.side = shape.image_size // shape.patch
        pixels = 3 * shape.patch**2
        width = shape.channels[-1]
        self.register_buffer("centre", torch.zeros(shape.embedding_width))
        self.register_buffer("whitening", torch.eye(shape.embedding_width))
        self.nothing = nn.Parameter(torch.zeros(HIDDEN_WIDTH))
        self.understand = nn.Sequential(
            nn.Linear(shape.embedding_width, HIDDEN_WIDTH),
            nn.SiLU(),
            nn.Linear(HIDDEN_WIDTH, HIDDEN_WIDTH),
            nn.SiLU(),
        )
        self.to_vectors = nn.Linear(HIDDEN_WIDTH, shape.vectors * width)
        self.to_coarse = nn.Linear(HIDDEN_WIDTH, pixels * self.side**2)
        self.unet = UNet2DConditionModel(
            sample_size=self.side,
            in_channels=2 * pixels,
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
            projection_class_embeddings_input_dim=HIDDEN_WIDTH,
            resnet_time_scale_shift="scale_shift",
        )
        self.unet.to(memory_format=torch.channels_last)

    def whiten_for(self, embeddings: Tensor) -> None:
        """Take centre and PCA whitening from the training images' embeddings [n, d]."""
        z = embeddings.double()
        variances, directions = torch.linalg.eigh(z.T.cov(correction=0))
        floor = (FAINTEST * variances.mean()).clamp_min(1e-6)
        scales = (variances.clamp_min(0) + floor).rsqrt()
        self.centre.copy_(z.mean(dim=0))
        self.whitening.copy_(directions * scales)

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor, dropped: Tensor) -> Tensor:
        """Predict x_0 [n, 3, s, s] from x_t, timesteps t [n] and embeddings z [n, d].

        Where `dropped` [n] is true, the embedding is replaced by the learned `nothing`.
        """
        known = self.understand((z - self.centre) @ self.whitening)
        known = torch.where(dropped[:, None], self.nothing, known)
        vectors = self.to_vectors(known).unflatten(1, (self.shape.vectors, -1))
        coarse = self.to_coarse(known).unflatten(1, (-1, self.side, self.side))
        patches = torch.cat([F.pixel_unshuffle(x_t, self.shape.patch), coarse], dim=1)
        patches = patches.contiguous(memory_format=torch.channels_last)
        predicted = self.unet(patches, t, vectors, class_labels=known).sample
        return F.pixel_shuffle((coarse + predicted).float(), self.shape.patch)
