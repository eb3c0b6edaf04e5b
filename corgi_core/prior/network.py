"""The prior network: a causal transformer whose text prefix is computed once per caption.

The sequence is [text tokens · CLIP text embedding · Gaussian | noisy embedding at its timestep],
the last position projected to ẑ_0. Attention is causal and what the caption decides comes first, so
its keys and values depend neither on the timestep nor on the noise: `encode_prefix` computes them
once. `denoise` runs one position a draw, for several independent (t, noise) draws side by side,
each of which sees the prefix and itself only; sampling goes further (`stepping`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from corgi_core.diffusion.schedule import timestep_features
from corgi_core.prior.block import Block


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
    """Predicts ẑ_0(z_t, t, c, y), in the embeddings' own coordinates.

    Of the noisy embedding it reads the guess μ_c + √ᾱ_t (z_t − μ_c): E[z_0 | z_t] for whom knows
    the caption's Gaussian and not the caption. Under every bank the guess is an embedding like any
    other, and where noise tells nothing, none is seen. With `checkpoint_activations` a block's
    activations are computed again in the backward pass instead of being kept.
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
        self.no_text = nn.Parameter(torch.zeros(width))
        # Of the text tokens, the CLIP text embedding and the Gaussian.
        self.positions = nn.Parameter(torch.zeros(shape.text_tokens + 2, width))
        self.timestep = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.noisy = nn.Linear(shape.embedding_width, width)
        self.blocks = nn.ModuleList(Block(width, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, shape.embedding_width)
        # Last, so that from one seed all else starts alike for every number of Gaussians.
        self.gaussian = nn.Embedding(shape.gaussians, width)
        nn.init.normal_(self.gaussian.weight, std=0.02)

    @property
    def layers(self) -> list[Block]:
        """The blocks, first to last."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def encode_prefix(
        self, tokens: Tensor, mask: Tensor, text: Tensor, dropped: Tensor, c: Tensor
    ) -> Prefix:
        """Keys and values of what the caption decides.

        tokens [n, P−2, text_width], mask [n, P−2], text [n, d], its Gaussian c [n]. Where `dropped`
        [n] is True the caption is hidden (classifier-free guidance): no token is visible and a
        learned vector stands in the CLIP text embedding's place.
        """
        length = tokens.shape[1]
        embedding = torch.where(dropped.unsqueeze(1), self.no_text, self.text_embedding(text))
        last_two = torch.stack([embedding, self.gaussian(c)], dim=1)
        positions = torch.cat([self.positions[:length], self.positions[-2:]])
        x = torch.cat([self.text_tokens(tokens), last_two], dim=1) + positions
        visible = F.pad(mask & ~dropped.unsqueeze(1), (0, 2), value=True)
        causal = torch.ones(length + 2, length + 2, dtype=torch.bool, device=x.device).tril()
        # A position always sees itself, so that no softmax runs over nothing.
        itself = torch.eye(length + 2, dtype=torch.bool, device=x.device)
        seen = (causal & visible[:, None, :] | itself).unsqueeze(1)
        kept = []
        for block in self.layers[:-1]:
            x, keys_and_values = self._run(_prefix_through, block, x, seen)
            kept.append(keys_and_values)
        kept.append(self.layers[-1].keys_and_values(x))  # all that is wanted of the last block
        return Prefix(tuple(kept), visible)

    def denoise(self, prefix: Prefix, guess: Tensor, t: Tensor) -> Tensor:
        """ẑ_0 [n, M, d] for M draws per caption: their guesses [n, M, d], t [n, M]."""
        n, draws = t.shape
        x = self.noisy(guess) + self.embed_timestep(t)
        itself = torch.eye(draws, dtype=torch.bool, device=x.device).expand(n, -1, -1)
        visible = prefix.visible.unsqueeze(1).expand(-1, draws, -1)
        seen = torch.cat([visible, itself], dim=2).unsqueeze(1)
        for block, there in zip(self.layers, prefix.keys_and_values, strict=True):
            x = self._run(_draws_through, block, x, there, seen)
        return self.project(x)

    def embed_timestep(self, t: Tensor) -> Tensor:
        """t [...] → [..., width], which is added to the noisy embedding's projection."""
        embedded: Tensor = self.timestep(
            timestep_features(t, self.shape.width).to(self.no_text.dtype)
        )
        return embedded

    def project(self, x: Tensor) -> Tensor:
        """The draws' output [..., width] → ẑ_0 [..., d]."""
        return self.head(self.norm(x))

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor,
        text: Tensor,
        dropped: Tensor,
        guess: Tensor,
        t: Tensor,
        c: Tensor,
    ) -> Tensor:
        """One prefix and M draws per caption: `denoise(encode_prefix(…), …)`."""
        return self.denoise(self.encode_prefix(tokens, mask, text, dropped, c), guess, t)

    def _run(self, through: Callable[..., Any], *inputs: Any) -> Any:
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(through, *inputs, use_reentrant=False)
        return through(*inputs)


def _prefix_through(block: Block, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """x [n, P, width] after the block, and the block's keys and values of x."""
    queries, own = block.queries_keys_values(x)
    found = F.scaled_dot_product_attention(queries, own[0], own[1], attn_mask=seen)
    return block(x, found), own


def _draws_through(block: Block, x: Tensor, prefix: Tensor, seen: Tensor) -> Tensor:
    """Draws x [n, M, width] after the block, each having seen the prefix and itself."""
    queries, own = block.queries_keys_values(x)
    keys, values = torch.cat([prefix, own], dim=3)
    return block(x, F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen))
