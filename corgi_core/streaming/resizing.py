"""Stored images at the size of a model: a workspace stores pixels once, as large as any needs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from corgi_core.errors import CorgiError

AT_ONCE = 64  # images whose float32 values are in memory


def check_stored_size(stored: int, wanted: int, of: str) -> None:
    """CorgiError unless images of `stored` pixels to a side can be scaled down to `wanted`.

    `of` is whose image_size is wanted, such as "decoder".
    """
    if stored < wanted:
        raise CorgiError(
            f"the pixels are {stored} to a side, the {of}'s image_size is {wanted}",
            f"materialise the pixels again with the present preset, or lower the {of}'s image_size",
        )


def at_size(images: Tensor, size: int) -> Tensor:
    """Images uint8 [n, 3, s, s] scaled down to uint8 [n, 3, size, size], where size ≤ s.

    Values are means over squares where s is a multiple of size; otherwise the resampling is
    bicubic and antialiased.
    """
    if images.shape[-1] == size:
        return images
    if not len(images):
        return images.new_empty((0, 3, size, size))
    return torch.cat([_scaled(some.float(), size) for some in torch.split(images, AT_ONCE)])


def _scaled(images: Tensor, size: int) -> Tensor:
    factor, left = divmod(images.shape[-1], size)
    if left:
        scaled = F.interpolate(images, size=(size, size), mode="bicubic", antialias=True)
    else:
        scaled = F.avg_pool2d(images, factor)
    return scaled.round().clamp(0, 255).to(torch.uint8)
