"""The prior's transformer block."""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """A pre-norm transformer block that leaves to its caller who attends to what.

    So keys and values can be kept.
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
        """x [n, s, width] → keys and values [2, n, heads, s, width/heads]."""
        return self._keys_and_values(self.attention_norm(x))

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, s, width] → queries [n, heads, s, width/heads], and `keys_and_values` of x."""
        normed = self.attention_norm(x)
        queries = self.query(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return queries, self._keys_and_values(normed)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """x [n, s, width] and what its queries found [n, heads, s, width/heads] → x."""
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        return x + self.mlp(self.mlp_norm(x))

    def _keys_and_values(self, normed: Tensor) -> Tensor:
        by_head = self.key_value(normed).unflatten(-1, (2, self.heads, -1))
        return by_head.permute(2, 0, 3, 1, 4)
