"""For what learns beside a prior's network: a caption's features, and the network itself."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from corgi_core.prior.network import PriorShape

N = TypeVar("N", bound=nn.Module)


def network_in(model: nn.Module, kind: type[N]) -> N:
    """The network of a kind in what a training wraps it in, of one process, as arms are trained."""
    return next(module for module in model.modules() if isinstance(module, kind))


class TextFeatures(nn.Module):
    """φ(y) = [f_txt(y), mean of the text tokens], each part normalised."""

    def __init__(self, shape: PriorShape) -> None:
        super().__init__()
        self.width = shape.embedding_width + shape.text_width
        self.text = nn.LayerNorm(shape.embedding_width)
        self.tokens = nn.LayerNorm(shape.text_width)

    def forward(self, tokens: Tensor, attn_mask: Tensor, text: Tensor) -> Tensor:
        """Tokens [n, T, w], attn_mask [n, T], text [n, d] → [n, d + w]."""
        counted = attn_mask.unsqueeze(-1).float()
        mean = (tokens * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        return torch.cat([self.text(text), self.tokens(mean)], dim=1)
