"""Convolutions whose weights are scaled by a style, and the style of latent and embedding.

Modulation and demodulation are StyleGAN2's (Karras et al. 2020, section 2.2, equations 1 and 3);
the conditional style is Lafite's (Zhou et al. 2022, section 3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.decoders.gan.layers import Linear, leaky

EPSILON = 1e-8


class ConditionalStyle(nn.Module):
    """A layer's style s = B [A(w), C(z)]: from the latent by A, from the embedding by two layers C.

    Every layer has its own, so each can use what the embedding says about its scale.
    """

    def __init__(self, latent_width: int, embedding_width: int, channels: int) -> None:
        super().__init__()
        self.from_latent = Linear(latent_width, channels)
        self.from_embedding = Linear(embedding_width, channels)
        self.embedding_hidden = Linear(channels, channels)
        self.from_both = Linear(2 * channels, channels, bias=1.0)

    def forward(self, w: Tensor, white: Tensor) -> Tensor:
        """Style [n, channels], about 1, of w [n, latent_width] and whitened embeddings [n, d]."""
        embedded = self.embedding_hidden(leaky(self.from_embedding(white)))
        style: Tensor = self.from_both(torch.cat([self.from_latent(w), embedded], dim=1))
        return style


class ModulatedConvolution(nn.Module):
    """Convolution by the sample's own weights w'ᵢⱼₖ = sᵢ wᵢⱼₖ, demodulated to w'ⱼ / ‖w'ⱼ‖.

    i counts input channels, j output channels, k the taps. Scaling the weights is the same as
    scaling inputs and outputs, so the samples share one convolution.
    """

    def __init__(self, inputs: int, outputs: int, size: int, *, demodulates: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self._scale, self._demodulates = (inputs * size**2) ** -0.5, demodulates

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Features x [n, inputs, s, s], style [n, inputs] → [n, outputs, s, s]."""
        weight = self.weight * self._scale
        y = F.conv2d(x * style[:, :, None, None], weight, padding=weight.shape[-1] // 2)
        if self._demodulates:
            power = style.square() @ weight.square().sum(dim=(2, 3)).T
            y = y * (power + EPSILON).rsqrt()[:, :, None, None]
        return y
