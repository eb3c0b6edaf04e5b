"""The network: diffusion over principal components, told the embedding block by block.

A picture is one vector of coordinates (`components`), so the denoiser is a stack of dense residual
blocks, all of it matrix products. A processor trains it on many times more pictures a second than
a UNet, and a small set of small pictures wants to be seen often. The embedding is projected to as
many vectors as there are blocks; each block is told its own, together with the timestep, by a
shift, a scale and a gate (as in DiT, Peebles and Xie 2023, section 3.2).
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
    """h + g · MLP(s · LayerNorm(h) + b), where (b, s − 1, g − 1) are read from one vector."""

    def __init__(self, width: int, vector_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.told = nn.Linear(vector_width, 3 * width)
        self.change = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        nn.init.zeros_(self.told.weight)
        nn.init.zeros_(self.told.bias)

    def forward(self, h: Tensor, vector: Tensor) -> Tensor:
        """h [n, width], vector [n, vector_width] → [n, width]."""
        shift, scale, gate = self.told(F.silu(vector)).chunk(3, dim=1)
        return h + (1 + gate) * self.change(self.norm(h) * (1 + scale) + shift)


class PCANetwork(nn.Module):
    """x̂_0(x_t, t, z), predicted directly; x are coordinates along the `components`."""

    def __init__(self, shape: PCAShape) -> None:
        super().__init__()
        self.shape = shape
        width, vector_width = shape.width, shape.vector_width
        self.components = PrincipalComponents(shape.image_size, shape.components)
        self.white = Whitening(shape.embedding_width)
        self.nothing = nn.Parameter(torch.zeros(shape.embedding_width))
        self.understand = nn.Sequential(
            nn.Linear(shape.embedding_width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.to_vectors = nn.Linear(width, shape.vectors * vector_width)
        self.timestep = nn.Sequential(
            nn.Linear(vector_width, vector_width), nn.SiLU(), nn.Linear(vector_width, vector_width)
        )
        self.noisy = nn.Linear(shape.components, width)
        self.blocks = nn.ModuleList(Block(width, vector_width) for _ in range(shape.vectors))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, shape.components)
        nn.init.zeros_(self.head.weight)  # at first, the mean picture is all
        nn.init.zeros_(self.head.bias)

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor, dropped: Tensor) -> Tensor:
        """x̂_0 [n, k], float32, from x_t [n, k], timesteps t [n] and embeddings z [n, d].

        Where `dropped` [n] is true, a learned vector stands in the whitened embedding's place.
        """
        white = torch.where(dropped[:, None], self.nothing, self.white(z))
        understood = self.understand(white)
        vectors = self.to_vectors(understood).unflatten(1, (self.shape.vectors, -1))
        time = self.timestep(timestep_features(t, self.shape.vector_width))
        h = self.noisy(x_t) + understood
        for i, block in enumerate(self.blocks):
            h = block(h, vectors[:, i] + time)
        return self.head(self.norm(h)).float()
