"""The prior network: a causal transformer whose text prefix is computed once per caption.

The sequence is [text tokens · CLIP text embedding | timestep · Gaussian · noisy embedding · final],
the last position projected to ẑ_0. Attention is causal and the text comes first, so the text's keys
and values depend neither on the timestep nor on the noise: `encode_prefix` computes them once, and
`denoise` runs the four positions of the suffix only: at every sampling step, and in training for
several independent (t, noise) draws side by side, each of which sees the prefix and itself only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    """A caption batch's keys and values, layer by layer, each [n, heads, P, width/heads].

    `visible` [n, P] is False at padding.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    visible: Tensor


class Block(nn.Module):
    """A pre-norm transformer block that leaves to its caller who attends to what.

    So keys and values can be kept, and only positions whose output is wanted need ask.
    """

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

    def queries(self, x: Tensor) -> Tensor:
        """x [n, …, s, width] → [n, heads, …, s, width/heads]."""
        return self._by_head(self.query(self.attention_norm(x)))

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, …, s, width] → keys and values, each [n, heads, …, s, width/heads]."""
        keys, values = self.key_value(self.attention_norm(x)).chunk(2, dim=-1)
        return self._by_head(keys), self._by_head(values)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """x [n, …, s, width] and what its queries found [n, heads, …, s, width/heads] → x."""
        x = x + self.out(attended.movedim(1, -2).flatten(-2))
        return x + self.mlp(self.mlp_norm(x))

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).movedim(-2, 1)


def attend_to_prefix_and_own(
    queries: Tensor,
    prefix: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    visible: Tensor,
    causal: Tensor,
) -> Tensor:
    """One softmax over the prefix, which all M draws share, and a draw's own positions.

    queries [n, h, M, q, w]; prefix keys and values [n, h, P, w], of which `visible` [n, P] are
    seen; own ones [n, h, M, s, w], seen as `causal` [q, s] says → [n, h, M, q, w].
    """
    (prefix_keys, prefix_values), (keys, values) = prefix, own
    draws, asking = queries.shape[2:4]
    unfolded = (draws, asking)
    to_prefix = (queries.flatten(2, 3) @ prefix_keys.mT).unflatten(2, unfolded)
    to_prefix = to_prefix.masked_fill(~visible[:, None, None, None, :], -torch.inf)
    to_own = (queries @ keys.mT).masked_fill(~causal, -torch.inf)
    scores = torch.cat([to_prefix, to_own], dim=-1) / queries.shape[-1] ** 0.5
    shares = scores.softmax(dim=-1).to(values.dtype)
    prefix_shares, own_shares = shares.split([prefix_keys.shape[2], keys.shape[3]], dim=-1)
    found = (prefix_shares.flatten(2, 3) @ prefix_values).unflatten(2, unfolded)
    return found + own_shares @ values


class PriorNetwork(nn.Module):
    """Predicts ẑ_0(u_t, t, c, y), in the embeddings' own coordinates.

    The noisy embedding comes in whitened, so that every bank gives the network inputs of the same
    scale; the prediction is z_0 itself.
    """

    def __init__(self, shape: PriorShape) -> None:
        super().__init__()
        self.shape = shape
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
    def _layers(self) -> list[Block]:
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
        keys, values = [], []
        for block in self._layers:
            k, v = block.keys_and_values(x)
            keys.append(k)
            values.append(v)
            if block is not self.blocks[-1]:  # whose keys and values are all that is wanted
                found = F.scaled_dot_product_attention(block.queries(x), k, v, attn_mask=seen)
                x = block(x, found)
        return Prefix(tuple(keys), tuple(values), visible)

    def denoise(self, prefix: Prefix, u_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """ẑ_0 [n, M, d] for M draws per caption: u_t [n, M, d] whitened, t [n, M], c [n]."""
        final = self.final.expand(*u_t.shape[:2], -1)
        suffix = [
            self.timestep(timestep_features(t, self.shape.width).to(final.dtype)),
            self.gaussian(c).unsqueeze(1).expand_as(final),
            self.noisy(u_t),
            final,
        ]
        x = torch.stack(suffix, dim=2) + self.suffix_positions  # [n, M, 4, width]
        causal = torch.ones(SUFFIX, SUFFIX, dtype=torch.bool, device=x.device).tril()
        for block, k, v in zip(self._layers, prefix.keys, prefix.values, strict=True):
            own = block.keys_and_values(x)
            if block is self.blocks[-1]:  # only the final positions' output is wanted
                x, causal = x[:, :, -1:], causal[-1:]
            x = block(
                x,
                attend_to_prefix_and_own(block.queries(x), (k, v), own, prefix.visible, causal),
            )
        return self.head(self.norm(x.squeeze(2)))

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
