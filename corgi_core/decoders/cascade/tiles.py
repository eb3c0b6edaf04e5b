"""Large images in overlapping tiles: a UNet's memory is that of one tile, whatever the image.

For want of memory alone: GroupNorm then normalises each tile by itself, which shows in the image.
Tiles overlap by `overlap` pixels. At an edge inside the image, the outer quarter of the overlap is
context alone; over the inner half one tile fades into the next. So a network whose receptive field
reaches no further than `overlap` / 4 gives exactly the same in tiles as at once.
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
    """A tile's weights along its side, [tile] in 0 … 1: fading at edges inside the image.

    Args:
        start: Where the tile begins, in pixels.
        size: Pixels to a side of the image.
        tile: Pixels to a side of a tile.
        overlap: Pixels that two neighbours share.

    Returns:
        The weights. Those of two tiles that overlap by exactly `overlap` sum to 1.
    """
    unused = overlap // 4
    pixel = torch.arange(tile) + 0.5
    fading = max(1, overlap - 2 * unused)
    weight = torch.ones(tile)
    if start > 0:
        weight = weight * ((pixel - unused) / fading).clamp(0, 1)
    if start + tile < size:
        weight = weight * ((tile - pixel - unused) / fading).clamp(0, 1)
    return weight


def in_tiles(
    network: Callable[[Tensor], Tensor], inputs: Tensor, tile: int, overlap: int
) -> Tensor:
    """Apply a network tile by tile, and blend the tiles.

    Args:
        network: Maps [n, c, t, t] to [n, 3, t, t].
        inputs: [n, c, s, s] of any size s; if s ≤ tile, the network is applied once.
        tile: Pixels to a side of a tile.
        overlap: Pixels that two neighbours share.

    Returns:
        The output [n, 3, s, s].
    """
    size = inputs.shape[-1]
    if size <= tile:
        return network(inputs)
    total = inputs.new_zeros(len(inputs), 3, size, size)
    weights = inputs.new_zeros(size, size)
    for top, left in product(starts(size, tile, overlap), repeat=2):
        window = (..., slice(top, top + tile), slice(left, left + tile))
        rows, columns = (feather(start, size, tile, overlap) for start in (top, left))
        weight = torch.outer(rows, columns).to(inputs.device)
        total[window] += weight * network(inputs[window])
        weights[window] += weight
    return total / weights
