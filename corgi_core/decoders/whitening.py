"""Whitening of the embeddings that decoders read.

CLIP embeddings lie in a narrow cone, with most of their variance in few directions. Whitened by the
statistics of the training images, all directions in which images differ are about equally strong.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MIN_VARIANCE = 0.1  # directions with a smaller part of the mean variance are not amplified further


class Whitening(nn.Module):
    """z ↦ (z − centre) @ matrix: PCA whitening, and the identity before it is fitted."""

    centre: Tensor
    matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("matrix", torch.eye(width))

    @torch.no_grad()
    def fit(self, embeddings: Tensor) -> None:
        """Set centre and matrix from the training images' embeddings [n, d]."""
        z = embeddings.double()
        variances, directions = torch.linalg.eigh(z.T.cov(correction=0))
        floor = (MIN_VARIANCE * variances.mean()).clamp_min(1e-6)
        scales = (variances.clamp_min(0) + floor).rsqrt()
        self.centre.copy_(z.mean(dim=0))
        self.matrix.copy_(directions * scales)

    def forward(self, z: Tensor) -> Tensor:
        """Embeddings [n, d] → [n, d]."""
        return (z - self.centre) @ self.matrix
