"""The prior network: a causal transformer whose text prefix is computed once per caption.

The sequence is [text tokens · CLIP text embedding · Gaussian | noisy embedding at its timestep],
and the last position is projected to ẑ_0. Attention is causal and what depends on the caption comes
first, so its keys and values depend neither on the timestep nor on the noise. `encode_prefix`
computes them once. `denoise` runs one position for each of several independent (t, noise) samples,
each of which attends to the prefix and to itself only. `CachedDenoiser` does the same, faster, for
sampling.
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
class KVCache:
    """Keys and values of n captions' prefixes of P positions.

    `layers` holds a tensor [2, n, heads, P, width/heads] for every block. `attn_mask` [n, P] is
    False at padding.
    """

    layers: tuple[Tensor, ...]
    attn_mask: Tensor


class Block(nn.Module):
    """A pre-norm transformer block; its caller computes the attention, and so can cache keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def keys_and_values(self, x: Tensor) -> Tensor:
        """x [n, s, width] → keys and values [2, n, heads, s, width/heads]."""
        return self._keys_and_values(self.attention_norm(x))

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, s, width] → queries [n, heads, s, width/heads], and `keys_and_values` of x."""
        normed = self.attention_norm(x)
        queries = self.query(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return queries, self._keys_and_values(normed)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """x [n, s, width] and the attention's output [n, heads, s, width/heads] → x."""
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        output: Tensor = x + self.mlp(self.mlp_norm(x))
        return output

    def _keys_and_values(self, normed: Tensor) -> Tensor:
        by_head: Tensor = self.key_value(normed).unflatten(-1, (2, self.heads, -1))
        return by_head.permute(2, 0, 3, 1, 4)


class PriorNetwork(nn.Module):
    """Predicts ẑ_0(z_t, t, c, y), in the embeddings' own coordinates.

    It reads the noisy embedding as `shrunk` = μ_c + √ᾱ_t (z_t − μ_c). If the embeddings of the
    caption's Gaussian have the standard deviation κσ_c, that is E[z_0 | z_t] without reading the
    caption. They have σ_c, so it is so at κ = 1; for another κ the expectation is
    μ_c + √ᾱ_t / (ᾱ_t + κ² (1 − ᾱ_t)) (z_t − μ_c), and `shrunk` is a fixed multiple of it about μ_c
    at every t. In all cases the network can recover z_t from `shrunk`, t and c, and at the
    noisiest timesteps `shrunk` is near μ_c.

    Without its caption (classifier-free guidance) the network still reads the caption's Gaussian.

    Args:
        shape: the sizes.
        checkpoint_activations: compute a block's activations again in the backward pass instead of
            keeping them.
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
        self.null_text = nn.Parameter(torch.zeros(width))
        # Of the text tokens, the CLIP text embedding and the Gaussian.
        self.positions = nn.Parameter(torch.zeros(shape.text_tokens + 2, width))
        self.timestep = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.noisy = nn.Linear(shape.embedding_width, width)
        self.blocks = nn.ModuleList(Block(width, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, shape.embedding_width)
        # Last, so that with one seed all other weights start equal for every number of Gaussians.
        self.gaussian = nn.Embedding(shape.gaussians, width)
        nn.init.normal_(self.gaussian.weight, std=0.02)

    @property
    def layers(self) -> list[Block]:
        """The blocks, first to last."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def encode_prefix(
        self, tokens: Tensor, attn_mask: Tensor, text: Tensor, cond_mask: Tensor, c: Tensor
    ) -> KVCache:
        """Keys and values of what depends on the caption only.

        Args:
            tokens: the text encoder's tokens [n, T, text_width].
            attn_mask: [n, T], False at padding.
            text: CLIP text embeddings [n, d].
            cond_mask: [n], False where the caption is dropped: its tokens are masked, and a learned
                vector replaces the CLIP text embedding.
            c: indices of the captions' Gaussians [n].

        Returns:
            The cache of P = T + 2 positions.
        """
        length = tokens.shape[1]
        embedding = torch.where(cond_mask.unsqueeze(1), self.text_embedding(text), self.null_text)
        last_two = torch.stack([embedding, self.gaussian(c)], dim=1)
        positions = torch.cat([self.positions[:length], self.positions[-2:]])
        x = torch.cat([self.text_tokens(tokens), last_two], dim=1) + positions
        attn_mask = F.pad(attn_mask & cond_mask.unsqueeze(1), (0, 2), value=True)
        causal = torch.ones(length + 2, length + 2, dtype=torch.bool, device=x.device).tril()
        # A position always attends to itself, so that no softmax runs over nothing.
        itself = torch.eye(length + 2, dtype=torch.bool, device=x.device)
        pairs = (causal & attn_mask[:, None, :] | itself).unsqueeze(1)
        layers = []
        for block in self.layers[:-1]:
            x, keys_and_values = self._run(_prefix_block, block, x, pairs)
            layers.append(keys_and_values)
        layers.append(self.layers[-1].keys_and_values(x))  # the last block's output is not used
        return KVCache(tuple(layers), attn_mask)

    def denoise(self, kv_cache: KVCache, shrunk: Tensor, t: Tensor) -> Tensor:
        """Predictions for M independent (t, noise) samples per caption.

        Args:
            kv_cache: of n captions, from `encode_prefix`.
            shrunk: the noisy embeddings z_t as the class describes [n, M, d].
            t: timesteps [n, M].

        Returns:
            ẑ_0 [n, M, d].
        """
        n, samples = t.shape
        x = self.noisy(shrunk) + self.embed_timestep(t)
        itself = torch.eye(samples, dtype=torch.bool, device=x.device).expand(n, -1, -1)
        prefix = kv_cache.attn_mask.unsqueeze(1).expand(-1, samples, -1)
        pairs = torch.cat([prefix, itself], dim=2).unsqueeze(1)
        for block, cached in zip(self.layers, kv_cache.layers, strict=True):
            x = self._run(_noisy_block, block, x, cached, pairs)
        return self.project(x)

    def embed_timestep(self, t: Tensor) -> Tensor:
        """t [...] → [..., width], which is added to the noisy embedding's projection."""
        embedded: Tensor = self.timestep(
            timestep_features(t, self.shape.width).to(self.null_text.dtype)
        )
        return embedded

    def project(self, x: Tensor) -> Tensor:
        """The output of the noisy embeddings' positions [..., width] → ẑ_0 [..., d]."""
        projected: Tensor = self.head(self.norm(x))
        return projected

    def forward(
        self,
        tokens: Tensor,
        attn_mask: Tensor,
        text: Tensor,
        cond_mask: Tensor,
        shrunk: Tensor,
        t: Tensor,
        c: Tensor,
    ) -> Tensor:
        """`denoise(encode_prefix(…), …)`, for M independent (t, noise) samples per caption.

        Args:
            tokens: the text encoder's tokens [n, T, text_width].
            attn_mask: [n, T], False at padding.
            text: CLIP text embeddings [n, d].
            cond_mask: [n], False where the caption is dropped.
            shrunk: the noisy embeddings z_t as the class describes [n, M, d].
            t: timesteps [n, M].
            c: indices of the captions' Gaussians [n].

        Returns:
            ẑ_0 [n, M, d].
        """
        return self.denoise(self.encode_prefix(tokens, attn_mask, text, cond_mask, c), shrunk, t)

    def _run(self, step: Callable[..., Any], *inputs: Any) -> Any:
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(step, *inputs, use_reentrant=False)
        return step(*inputs)


def _prefix_block(block: Block, x: Tensor, attn_mask: Tensor) -> tuple[Tensor, Tensor]:
    """x [n, P, width] after the block, and the block's keys and values of x."""
    queries, own = block.queries_keys_values(x)
    attended = F.scaled_dot_product_attention(queries, own[0], own[1], attn_mask=attn_mask)
    return block(x, attended), own


def _noisy_block(block: Block, x: Tensor, cached: Tensor, attn_mask: Tensor) -> Tensor:
    """x [n, M, width] after the block; each position attends to the prefix and to itself."""
    queries, own = block.queries_keys_values(x)
    keys, values = torch.cat([cached, own], dim=3)
    attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=attn_mask)
    output: Tensor = block(x, attended)
    return output
