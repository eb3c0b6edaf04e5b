"""The prior network: a causal transformer whose text prefix is computed once per caption.

The sequence is [text tokens · CLIP text embedding | timestep · Gaussian · noisy embedding · final],
the last position projected to ẑ_0. Attention is causal and the text comes first, so the text's keys
and values depend neither on the timestep nor on the noise: `encode_prefix` computes them once. In
training `denoise` runs the four positions of the suffix for several independent (t, noise) draws
side by side, each of which sees the prefix and itself only; sampling goes further (`stepping`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from corgi_core.prior.block import Block, attend_to_prefix_and_own
from corgi_core.timesteps import timestep_features

SUFFIX = 4  # timestep, Gaussian, noisy embedding, final


@dataclass(frozen=True)
class PriorShape:
    """All that decides the network's tensors. Widths in coordinates, counts in units."""

    embedding_width: int  # d, of the CLIP embeddings
    text_width: int  # of the text encoder's tokens
    text_tokens: int
    gaussians: int  # k
    width: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Prefix:
    """A caption batch's keys and values, layer by layer, each [2, n, heads, P, width/heads].

    `visible` [n, P] is False at padding.
    """

    keys_and_values: tuple[Tensor, ...]
    visible: Tensor


class PriorNetwork(nn.Module):
    """Predicts ẑ_0(u_t, t, c, y), in the embeddings' own coordinates.

    The noisy embedding comes in whitened, so that every bank gives the network inputs of the same
    scale; the prediction is z_0 itself. With `checkpoint_activations` a block's activations are
    computed again in the backward pass instead of being kept.
    """

    def __init__(self, shape: PriorShape, checkpoint_activations: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.checkpoint_activations = checkpoint_activations
        width = shape.width
        self.text_tokens = nn.Sequential(
            nn.LayerNorm(shape.text_width), nn.Linear(shape.text_width, width)
        )
        self.text_embedding = nn.Linear(shape.embedding_width, width)
        self.no_text = nn.Parameter(torch.randn(width) * 0.02)
        self.timestep = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.noisy = nn.Linear(shape.embedding_width, width)
        self.final = nn.Parameter(torch.randn(width) * 0.02)
        self.prefix_positions = nn.Parameter(torch.randn(shape.text_tokens + 1, width) * 0.02)
        self.suffix_positions = nn.Parameter(torch.randn(SUFFIX, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, shape.embedding_width)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        # Last, so that from one seed all else starts alike for every number of Gaussians.
        self.gaussian = nn.Embedding(shape.gaussians, width)
        nn.init.normal_(self.gaussian.weight, std=0.02)

    @property
    def layers(self) -> list[Block]:
        """The blocks, first to last."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def encode_prefix(self, tokens: Tensor, mask: Tensor, text: Tensor, dropped: Tensor) -> Prefix:
        """Keys and values of the text. tokens [n, P−1, text_width], mask [n, P−1], text [n, d].

        Where `dropped` [n] is True the caption is hidden (classifier-free guidance): no token is
        visible and a learned vector stands in the CLIP text embedding's place.
        """
        length = tokens.shape[1]
        embedding = torch.where(dropped.unsqueeze(1), self.no_text, self.text_embedding(text))
        positions = torch.cat([self.prefix_positions[:length], self.prefix_positions[-1:]])
        x = torch.cat([self.text_tokens(tokens), embedding.unsqueeze(1)], dim=1) + positions
        visible = torch.cat(
            [mask & ~dropped.unsqueeze(1), torch.ones_like(dropped).unsqueeze(1)], dim=1
        )
        causal = torch.ones(length + 1, length + 1, dtype=torch.bool, device=x.device).tril()
        # A position always sees itself, so that no softmax runs over nothing.
        itself = torch.eye(length + 1, dtype=torch.bool, device=x.device)
        seen = (causal & visible[:, None, :] | itself).unsqueeze(1)
        kept = []
        for block in self.layers[:-1]:
            x, keys_and_values = self._run(_prefix_through, block, x, seen)
            kept.append(keys_and_values)
        kept.append(self.layers[-1].keys_and_values(x))  # all that is wanted of the last block
        return Prefix(tuple(kept), visible)

    def denoise(self, prefix: Prefix, u_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """ẑ_0 [n, M, d] for M draws per caption: u_t [n, M, d] whitened, t [n, M], c [n]."""
        x = torch.cat([self.embed_steps(t, c), self.embed_noisy(u_t)], dim=2)
        last = len(self.layers) - 1
        for i, block in enumerate(self.layers):
            asking = 1 if i == last else SUFFIX  # of the last block only the final position
            there = prefix.keys_and_values[i], prefix.visible
            x = self._run(_suffix_through, block, x, *there, asking)
        return self.project(x.squeeze(2))

    def embed_steps(self, t: Tensor, c: Tensor) -> Tensor:
        """The suffix' first two positions. t [n, M], c [n] → [n, M, 2, width]."""
        timestep = self.timestep(timestep_features(t, self.shape.width).to(self.final.dtype))
        gaussian = self.gaussian(c).unsqueeze(1).expand_as(timestep)
        return torch.stack([timestep, gaussian], dim=2) + self.suffix_positions[:2]

    def embed_noisy(self, u_t: Tensor) -> Tensor:
        """The suffix' last two positions. u_t [n, M, d] whitened → [n, M, 2, width]."""
        noisy = self.noisy(u_t)
        return torch.stack([noisy, self.final.expand_as(noisy)], dim=2) + self.suffix_positions[2:]

    def project(self, final: Tensor) -> Tensor:
        """The final position's output [..., width] → ẑ_0 [..., d]."""
        return self.head(self.norm(final))

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor,
        text: Tensor,
        dropped: Tensor,
        u_t: Tensor,
        t: Tensor,
        c: Tensor,
    ) -> Tensor:
        """One prefix and M draws per caption: `denoise(encode_prefix(…), …)`."""
        return self.denoise(self.encode_prefix(tokens, mask, text, dropped), u_t, t, c)

    def _run(self, through: Callable[..., Any], *inputs: Any) -> Any:
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(through, *inputs, use_reentrant=False)
        return through(*inputs)


def _prefix_through(block: Block, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """x [n, P, width] after the block, and the block's keys and values of x."""
    queries, keys_and_values = block.queries_keys_values(x, asking=x.shape[1])
    found = F.scaled_dot_product_attention(
        queries, keys_and_values[0], keys_and_values[1], attn_mask=seen
    )
    return block(x, found), keys_and_values


def _suffix_through(
    block: Block, x: Tensor, prefix: Tensor, visible: Tensor, asking: int
) -> Tensor:
    """The last `asking` positions of x [n, M, s, width] after the block."""
    queries, own = block.queries_keys_values(x, asking)
    found = attend_to_prefix_and_own(queries, prefix, own, visible)
    return block(x[:, :, -asking:], found)
