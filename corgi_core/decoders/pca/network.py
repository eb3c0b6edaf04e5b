"""The PCA decoder's network: a diffusion model of PCA coordinates, conditioned on an embedding.

An image is one vector of coordinates, so the denoiser is a stack of dense residual blocks, all of
it matrix products. A processor trains it on many times more images a second than a UNet, and a
small set of small images needs many epochs. The embedding is projected to as many vectors as there
are blocks. Each block is conditioned on its own vector and on the timestep by a shift, a scale and
a gate (as in DiT, Peebles and Xie 2023, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.decoders.pca.basis import PrincipalComponents
from corgi_core.decoders.whitening import Whitening
from corgi_core.diffusion.schedule import timestep_features


@dataclass(frozen=True)
class PCAShape:
    """What the network is built from."""

    embedding_width: int
    image_size: int
    components: int
    width: int
    vectors: int
    vector_width: int


class Block(nn.Module):
    """h + g · MLP(s · LayerNorm(h) + b), with b, s − 1 and g − 1 linear in one vector."""

    def __init__(self, width: int, vector_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(vector_width, 3 * width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, vector: Tensor) -> Tensor:
        """Activations h [n, width] and condition vector [n, vector_width] → [n, width]."""
        shift, scale, gate = self.modulation(F.silu(vector)).chunk(3, dim=1)
        changed: Tensor = h + (1 + gate) * self.mlp(self.norm(h) * (1 + scale) + shift)
        return changed


class PCANetwork(nn.Module):
    """x̂_0(x_t, t, z), predicted directly; x are coordinates in the `basis`."""

    def __init__(self, shape: PCAShape) -> None:
        super().__init__()
        self.shape = shape
        width, vector_width = shape.width, shape.vector_width
        self.basis = PrincipalComponents(shape.image_size, shape.components)
        self.whitening = Whitening(shape.embedding_width)
        self.null_embedding = nn.Parameter(torch.zeros(shape.embedding_width))
        self.embedding_mlp = nn.Sequential(
            nn.Linear(shape.embedding_width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.to_vectors = nn.Linear(width, shape.vectors * vector_width)
        self.timestep_mlp = nn.Sequential(
            nn.Linear(vector_width, vector_width), nn.SiLU(), nn.Linear(vector_width, vector_width)
        )
        self.from_coordinates = nn.Linear(shape.components, width)
        self.blocks = nn.ModuleList(Block(width, vector_width) for _ in range(shape.vectors))
        self.norm = nn.LayerNorm(width)
        self.to_coordinates = nn.Linear(width, shape.components)
        nn.init.zeros_(self.to_coordinates.weight)  # at first it predicts the mean image
        nn.init.zeros_(self.to_coordinates.bias)

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor, cond_mask: Tensor) -> Tensor:
        """Predict x̂_0.

        Args:
            x_t: Noisy coordinates [n, k].
            t: Timesteps [n].
            z: Embeddings [n, d].
            cond_mask: [n], false where a learned vector replaces the whitened embedding.

        Returns:
            x̂_0 [n, k], float32.
        """
        white = torch.where(cond_mask[:, None], self.whitening(z), self.null_embedding)
        embedded = self.embedding_mlp(white)
        vectors = self.to_vectors(embedded).unflatten(1, (self.shape.vectors, -1))
        time = self.timestep_mlp(timestep_features(t, self.shape.vector_width))
        h = self.from_coordinates(x_t) + embedded
        for i, block in enumerate(self.blocks):
            h = block(h, vectors[:, i] + time)
        x_0: Tensor = self.to_coordinates(self.norm(h)).float()
        return x_0
