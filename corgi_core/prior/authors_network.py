"""The network of the paper's authors, as their released code builds it: another than ours.

Theirs has no positions, RMS norms, gated linear units and two-layer projections, reads the timestep
and the Gaussian as tokens of their own, and predicts from a last, learned token. So their weights
do not fit `PriorNetwork`, and this is the network that they fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.diffusion.schedule import timestep_features

HEAD_WIDTH = 64  # of every attention head, whatever the network's width


@dataclass(frozen=True)
class AuthorsShape:
    """All that decides the network's tensors.

    Attributes:
        embedding_width: d, of the CLIP embeddings; 1536 in the released models.
        text_width: Of T5's tokens; 1024.
        width: Of the network; 2048.
        layers: 16 or 20.
        heads: 32.
        reads_gaussian: Whether the number of the caption's Gaussian is a token: not in their
            baseline, which has none.
    """

    embedding_width: int
    text_width: int
    width: int
    layers: int
    heads: int
    reads_gaussian: bool


class RMSNorm(nn.Module):
    """x √w / ‖x‖, times a gain. x [..., w]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., w] → [..., w]."""
        rms = x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        normalised: Tensor = x / rms.clamp(min=1e-8) * self.gain
        return normalised


class AuthorsBlock(nn.Module):
    """A pre-norm block: causal attention without biases, and a GELU-gated linear unit."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.query, self.key, self.value = (
            nn.Linear(width, heads * HEAD_WIDTH, bias=False) for _ in range(3)
        )
        self.out = nn.Linear(heads * HEAD_WIDTH, width, bias=False)
        self.mlp_norm = RMSNorm(width)
        self.mlp_in = nn.Linear(width, 8 * width)  # four times the width, and as much for the gate
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x [n, s, w] → [n, s, w]."""
        normed = self.attention_norm(x)
        query, key, value = (
            project(normed).unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        values, gate = self.mlp_in(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + cast(Tensor, self.mlp_out(values * F.gelu(gate)))


class AuthorsNetwork(nn.Module):
    """Predicts ẑ_0(z_t, t, c, y) in CLIP's own scale, in which nothing is normalised."""

    def __init__(self, shape: AuthorsShape) -> None:
        super().__init__()
        self.shape = shape
        width, d = shape.width, shape.embedding_width
        self.text_tokens = nn.Sequential(
            nn.LayerNorm(shape.text_width), *_two_layers(shape.text_width, width)
        )
        self.text_embedding = nn.Sequential(*_two_layers(d, width))
        self.noisy = nn.Sequential(*_two_layers(d, width))
        self.timestep = _features_mlp(width)
        self.gaussian = _features_mlp(width) if shape.reads_gaussian else None
        self.last = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(AuthorsBlock(width, shape.heads) for _ in range(shape.layers))
        self.head = nn.Sequential(nn.Linear(width, d), nn.SiLU(), nn.Linear(d, d))

    def forward(self, tokens: Tensor, text: Tensor, z_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """ẑ_0 [n, d].

        Args:
            tokens: T5's tokens [n, T, w_t], padding included: the network knows no mask.
            text: CLIP text embeddings [n, d], as CLIP gives them.
            z_t: The noisy embeddings [n, d].
            t: Timesteps [n].
            c: The numbers of the captions' Gaussians [n]; not read by the baseline.
        """
        parts = [
            self.text_tokens(tokens),
            self.text_embedding(text).unsqueeze(1),
            self.timestep(self._features(t)).unsqueeze(1),
        ]
        if self.gaussian is not None:
            parts.append(self.gaussian(self._features(c)).unsqueeze(1))
        parts += [self.noisy(z_t).unsqueeze(1), self.last.expand(len(z_t), -1, -1)]
        x = torch.cat(parts, dim=1)
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.head(x[:, -1]))

    def _features(self, numbers: Tensor) -> Tensor:
        """Cosines, then sines, of whole numbers [n] → [n, w]."""
        sines, cosines = timestep_features(numbers, self.shape.width).chunk(2, dim=-1)
        return torch.cat([cosines, sines], dim=-1)


def _two_layers(width_in: int, width: int) -> list[nn.Module]:
    return [nn.Linear(width_in, width), nn.SiLU(), nn.LayerNorm(width), nn.Linear(width, width)]


def _features_mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
