"""The decoder's network: a dense painter, and diffusers' UNet that denoises what it painted.

The painter draws the whole picture from the embedding alone: the best guess where all is noise, at
a seventeenth of the UNet's cost, so that it learns from many pictures while the UNet denoises few.
The UNet sees the painted picture beside the noisy one and predicts what is missing. It knows the
embedding in two more ways: eight vectors that it attends to, as in the paper, and an addition to
the time embedding (DALL-E 2, section 2.1).

CLIP embeddings lie in a narrow cone, most of their variance in few directions. They are whitened
first, by the training images' statistics, so that what tells two pictures apart is not faint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    painter_width: int
    painter_layers: int


class Residual(nn.Module):
    """h + MLP(LayerNorm(h)); h [n, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.change(h)


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
        hidden = shape.painter_width
        self.nothing = nn.Parameter(torch.zeros(hidden))
        self.understand = nn.Sequential(
            nn.Linear(shape.embedding_width, hidden),
            *(Residual(hidden) for _ in range(shape.painter_layers)),
        )
        self.paint = nn.Linear(hidden, pixels * self.side**2)
        self.to_vectors = nn.Linear(hidden, shape.vectors * width)
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
            projection_class_embeddings_input_dim=hidden,
            resnet_time_scale_shift="scale_shift",
        )
        nn.init.zeros_(self.unet.conv_out.weight)  # at first, the painted picture is all
        nn.init.zeros_(self.unet.conv_out.bias)
        self.unet.to(memory_format=torch.channels_last)

    def whiten_for(self, embeddings: Tensor) -> None:
        """Take centre and PCA whitening from the training images' embeddings [n, d]."""
        z = embeddings.double()
        variances, directions = torch.linalg.eigh(z.T.cov(correction=0))
        floor = (FAINTEST * variances.mean()).clamp_min(1e-6)
        scales = (variances.clamp_min(0) + floor).rsqrt()
        self.centre.copy_(z.mean(dim=0))
        self.whitening.copy_(directions * scales)

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
        """x̂_0 [n, 3, s, s] from x_t, timesteps t [n] and embeddings z, and what z alone paints.

        z [m, d] may have more rows than x_t: all m are painted, [m, 3, s, s], and the first n
        denoised. Where `dropped` [n] is true, the UNet gets the learned `nothing` for an embedding.
        """
        understood = self.understand((z - self.centre) @ self.whitening)
        painted = F.pixel_shuffle(self._patches(understood).float(), self.shape.patch)
        known = torch.where(dropped[:, None], self.nothing, understood[: len(x_t)])
        coarse = self._patches(known).detach()  # the painter learns from its own loss alone
        patches = torch.cat([F.pixel_unshuffle(x_t, self.shape.patch), coarse], dim=1)
        patches = patches.contiguous(memory_format=torch.channels_last)
        vectors = self.to_vectors(known).unflatten(1, (self.shape.vectors, -1))
        missing = self.unet(patches, t, vectors, class_labels=known).sample
        return F.pixel_shuffle((coarse + missing).float(), self.shape.patch), painted

    def _patches(self, understood: Tensor) -> Tensor:
        """The painted picture as the UNet's channels, [n, 3·patch², side, side]."""
        return self.paint(understood).unflatten(1, (-1, self.side, self.side))
