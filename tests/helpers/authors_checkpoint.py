"""A checkpoint of the authors' prior: random weights under their names, of small shapes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WIDTH, D, TEXT, HEADS, LAYERS, GAUSSIANS = 32, 12, 20, 3, 2, 5


def checkpoint(reads_gaussian: bool) -> dict[str, Tensor]:
    """Random weights of all their shapes."""
    torch.manual_seed(0)
    tensors: dict[str, Tensor] = {"final_emb": torch.randn(1, 1, WIDTH)}

    def linear(name: str, width_in: int, width_out: int, *, bias: bool = True) -> None:
        tensors[f"{name}.weight"] = torch.randn(width_out, width_in) / math.sqrt(width_in)
        if bias:
            tensors[f"{name}.bias"] = torch.randn(width_out)

    def norm(name: str, width: int) -> None:
        tensors[f"{name}.gamma"], tensors[f"{name}.beta"] = torch.rand(width), torch.zeros(width)

    norm("t5_proj.0", TEXT)
    for name, width_in, first in (
        ("t5_proj", TEXT, 1), ("x_proj", D, 0), ("clip_sentence_proj", D, 0)
    ):  # fmt: skip
        linear(f"{name}.{first}", width_in, WIDTH)
        norm(f"{name}.{first + 2}", WIDTH)
        linear(f"{name}.{first + 3}", WIDTH, WIDTH)
    for name in ("time_embed", *(["pos_embed"] if reads_gaussian else [])):
        linear(f"{name}.0", WIDTH, WIDTH)
        linear(f"{name}.2", WIDTH, WIDTH)
    linear("out_proj.0", WIDTH, D)
    linear("out_proj.2", D, D)
    for layer in range(0, 2 * LAYERS, 2):
        for each in (layer, layer + 1):
            tensors[f"transformer.layers.{each}.0.0.g"] = torch.rand(WIDTH)
        for part in ("to_q", "to_k", "to_v"):
            linear(f"transformer.layers.{layer}.1.{part}", WIDTH, 64 * HEADS, bias=False)
        linear(f"transformer.layers.{layer}.1.to_out", 64 * HEADS, WIDTH, bias=False)
        linear(f"transformer.layers.{layer + 1}.1.net.0.proj", WIDTH, 8 * WIDTH)
        linear(f"transformer.layers.{layer + 1}.1.net.3", 4 * WIDTH, WIDTH)
    return tensors
