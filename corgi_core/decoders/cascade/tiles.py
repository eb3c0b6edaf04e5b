"""Large pictures in overlapping tiles: a UNet's memory is that of one tile, whatever the picture.

Tiles overlap by `overlap` pixels. At an edge inside the picture, the outer quarter of the overlap
is context alone; over the inner half one tile fades into the next. So a network that looks no
further than `overlap` / 4 gives in tiles exactly what it gives at once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor


def starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side of `size` pixels; the last one ends at the side's end."""
    if size <= tile:
        return [0]
    return [*range(0, size - tile, tile - overlap), size - tile]


def feather(start: int, size: int, tile: int, overlap: int) -> Tensor:
    """How much a tile counts along its side, [tile] in 0 … 1: fading at edges inside the picture.

    Two tiles that overlap by exactly `overlap` sum to 1.
    """
    unused = overlap // 4
    place = torch.arange(tile) + 0.5
    fading = max(1, overlap - 2 * unused)
    weight = torch.ones(tile)
    if start > 0:
        weight = weight * ((place - unused) / fading).clamp(0, 1)
    if start + tile < size:
        weight = weight * ((tile - place - unused) / fading).clamp(0, 1)
    return weight


def in_tiles(
    network: Callable[[Tensor], Tensor], inputs: Tensor, tile: int, overlap: int
) -> Tensor:
    """`network`, which maps [n, c, t, t] to [n, 3, t, t], on inputs [n, c, s, s] of any size.

    Inputs no larger than a tile are given to it as they are.
    """
    size = inputs.shape[-1]
    if size <= tile:
        return network(inputs)
    total = inputs.new_zeros(len(inputs), 3, size, size)
    weights = inputs.new_zeros(size, size)
    for top, left in product(starts(size, tile, overlap), repeat=2):
        place = (..., slice(top, top + tile), slice(left, left + tile))
        rows, columns = (feather(start, size, tile, overlap) for start in (top, left))
        weight = torch.outer(rows, columns).to(inputs.device)
        total[place] += weight * network(inputs[place])
        weights[place] += weight
    return total / weights
