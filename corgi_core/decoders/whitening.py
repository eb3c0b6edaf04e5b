"""Embeddings as decoders read them: centred, all directions equally strong.

CLIP embeddings lie in a narrow cone, most of their variance in few directions. Whitened by the
training images' statistics, what tells two pictures apart is not faint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FAINTEST = 0.1  # directions with less than this part of the mean variance are not amplified further


class Whitening(nn.Module):
    """z ↦ (z − centre) @ matrix: PCA whitening, and the identity until it is fitted."""

    centre: Tensor
    matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("matrix", torch.eye(width))

    @torch.no_grad()
    def fit(self, embeddings: Tensor) -> None:
        """Take centre and matrix from the training images' embeddings [n, d]."""
        z = embeddings.double()
        variances, directions = torch.linalg.eigh(z.T.cov(correction=0))
        floor = (FAINTEST * variances.mean()).clamp_min(1e-6)
        scales = (variances.clamp_min(0) + floor).rsqrt()
        self.centre.copy_(z.mean(dim=0))
        self.matrix.copy_(directions * scales)

    def forward(self, z: Tensor) -> Tensor:
        """Embeddings [n, d] → [n, d]."""
        white: Tensor = (z - self.centre) @ self.matrix
        return white
