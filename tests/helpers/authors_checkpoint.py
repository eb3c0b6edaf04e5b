"""A checkpoint of the authors' prior: random weights under their names."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Sizes(NamedTuple):
    """What decides all shapes: the network's width, that of embeddings and of T5's tokens, …"""

    width: int
    d: int
    text: int
    heads: int
    layers: int


SMALL = Sizes(32, 12, 20, 3, 2)
PUBLISHED = Sizes(2048, 1536, 1024, 32, 16)  # of the smaller released models
WIDTH, D, TEXT, HEADS, LAYERS = SMALL
GAUSSIANS = 5


def checkpoint(reads_gaussian: bool, sizes: Sizes = SMALL) -> dict[str, Tensor]:
    """Random weights of all their shapes."""
    torch.manual_seed(0)
    width, d, text, heads, layers = sizes
    tensors: dict[str, Tensor] = {"final_emb": torch.randn(1, 1, width)}

    def linear(name: str, width_in: int, width_out: int, *, bias: bool = True) -> None:
        tensors[f"{name}.weight"] = torch.randn(width_out, width_in) / math.sqrt(width_in)
        if bias:
            tensors[f"{name}.bias"] = torch.randn(width_out)

    def norm(name: str, width: int) -> None:
        tensors[f"{name}.gamma"], tensors[f"{name}.beta"] = torch.rand(width), torch.zeros(width)

    norm("t5_proj.0", text)
    for name, width_in, first in (
        ("t5_proj", text, 1), ("x_proj", d, 0), ("clip_sentence_proj", d, 0)
    ):  # fmt: skip
        linear(f"{name}.{first}", width_in, width)
        norm(f"{name}.{first + 2}", width)
        linear(f"{name}.{first + 3}", width, width)
    for name in ("time_embed", *(["pos_embed"] if reads_gaussian else [])):
        linear(f"{name}.0", width, width)
        linear(f"{name}.2", width, width)
    linear("out_proj.0", width, d)
    linear("out_proj.2", d, d)
    for layer in range(0, 2 * layers, 2):
        for each in (layer, layer + 1):
            tensors[f"transformer.layers.{each}.0.0.g"] = torch.rand(width)
        for part in ("to_q", "to_k", "to_v"):
            linear(f"transformer.layers.{layer}.1.{part}", width, 64 * heads, bias=False)
        linear(f"transformer.layers.{layer}.1.to_out", 64 * heads, width, bias=False)
        linear(f"transformer.layers.{layer + 1}.1.net.0.proj", width, 8 * width)
        linear(f"transformer.layers.{layer + 1}.1.net.3", 4 * width, width)
    return tensors
