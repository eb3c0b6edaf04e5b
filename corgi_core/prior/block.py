"""The prior's transformer block, and its one softmax over a shared prefix and a draw's own part."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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

    def keys_and_values(self, x: Tensor) -> Tensor:
        """x [n, …, s, width] → keys and values [2, n, heads, …, s, width/heads]."""
        return self._keys_and_values(self.attention_norm(x))

    def queries_keys_values(self, x: Tensor, asking: int) -> tuple[Tensor, Tensor]:
        """The last `asking` positions' queries, and the keys and values of all.

        x [n, …, s, width] → [n, heads, …, asking, width/heads], [2, n, heads, …, s, width/heads].
        """
        normed = self.attention_norm(x)
        queries = self.query(normed[..., -asking:, :]).unflatten(-1, (self.heads, -1))
        return queries.movedim(-2, 1), self._keys_and_values(normed)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """x [n, …, s, width] and what its queries found [n, heads, …, s, width/heads] → x."""
        x = x + self.out(attended.movedim(1, -2).flatten(-2))
        return x + self.mlp(self.mlp_norm(x))

    def _keys_and_values(self, normed: Tensor) -> Tensor:
        by_head = self.key_value(normed).unflatten(-1, (2, self.heads, -1))
        return by_head.movedim((-3, -2), (0, 2))


def attend_to_prefix_and_own(
    queries: Tensor, prefix: Tensor, own: Tensor, visible: Tensor
) -> Tensor:
    """One softmax over the prefix, which all M draws share, and a draw's own positions, causally.

    queries [n, h, M, q, w], of the last q of s positions; the prefix' keys and values
    [2, n, h, P, w], of which `visible` [n, P] are seen; own ones [2, n, h, M, s, w]
    → [n, h, M, q, w].
    """
    (prefix_keys, prefix_values), (keys, values) = prefix, own
    unfolded = queries.shape[2:4]
    asking, length = queries.shape[3], keys.shape[3]
    causal = torch.ones(length, length, dtype=torch.bool, device=keys.device).tril()[-asking:]
    to_prefix = (queries.flatten(2, 3) @ prefix_keys.mT).unflatten(2, unfolded)
    to_prefix = to_prefix.masked_fill(~visible[:, None, None, None, :], -torch.inf)
    to_own = (queries @ keys.mT).masked_fill(~causal, -torch.inf)
    scores = torch.cat([to_prefix, to_own], dim=-1) / queries.shape[-1] ** 0.5
    shares = scores.softmax(dim=-1).to(values.dtype)
    prefix_shares, own_shares = shares.split([prefix_keys.shape[2], length], dim=-1)
    found = (prefix_shares.flatten(2, 3) @ prefix_values).unflatten(2, unfolded)
    return found + own_shares @ values
