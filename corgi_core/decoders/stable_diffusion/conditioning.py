"""The embedding in the place of the text: four vectors for the UNet's cross-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VECTORS = 4


class Conditioning(nn.Module):
    """z → four vectors, normalised as the text encoder's last layer normalises its tokens.

    `negative` [d] is the embedding that says nothing in particular. It stands in for dropped
    embeddings in training, and is what guidance starts from.
    """

    negative: Tensor

    def __init__(self, embedding_width: int, vector_width: int) -> None:
        super().__init__()
        self.register_buffer("negative", torch.zeros(embedding_width))
        self.project = nn.Linear(embedding_width, VECTORS * vector_width)
        self.norm = nn.LayerNorm(vector_width)

    def forward(self, z: Tensor, dropped: Tensor) -> Tensor:
        """Embeddings z [n, d], hidden where `dropped` [n] is true → [n, 4, vector_width]."""
        shown = torch.where(dropped.unsqueeze(1), self.negative, z)
        vectors: Tensor = self.norm(self.project(shown).unflatten(1, (VECTORS, -1)))
        return vectors
