"""Whitening of the embeddings that decoders read.

CLIP embeddings lie in a narrow cone, with most of their variance in few directions. Whitened by the
statistics of the training images, all directions in which images differ are about equally strong.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corgi_core.decoders.signs import with_fixed_signs

BATCH = 4096  # embeddings that are float64 at once
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
        """Set centre and matrix from the training images' embeddings [n, d], a few at a time."""
        batches = torch.split(embeddings, BATCH)
        sums: Tensor = sum(batch.double().sum(dim=0) for batch in batches)  # type: ignore[assignment]
        mean = sums / len(embeddings)
        scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
        for batch in batches:
            centred = batch.double() - mean
            scatter += centred.T @ centred
        variances, directions = torch.linalg.eigh(scatter / len(embeddings))
        floor = (MIN_VARIANCE * variances.mean()).clamp_min(1e-6)
        scales = (variances.clamp_min(0) + floor).rsqrt()
        self.centre.copy_(mean)
        self.matrix.copy_(with_fixed_signs(directions) * scales)

    def forward(self, z: Tensor) -> Tensor:
        """Embeddings [n, d] → [n, d]."""
        return (z - self.centre) @ self.matrix
