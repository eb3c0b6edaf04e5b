"""Squares of images: a stage of large images, which adds detail, is trained on parts of them.

So are the upsamplers of DALL-E 2 (Ramesh et al., 2022, section 2.1). Convolutions compute the same
on a part as on the whole, but for its borders and for group norm; memory and time are a fraction.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cropped(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """A square of each image.

    Args:
        images: [n, c, s, s].
        corners: Row and column of each square's upper left pixel, long [n, 2] in 0 … s − side.
        side: Pixels.

    Returns:
        [n, c, side, side].
    """
    offsets = torch.arange(side, device=images.device)
    rows, columns = (corners.unsqueeze(2) + offsets).unbind(dim=1)
    numbers = torch.arange(len(images), device=images.device)
    squares = images[numbers[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return squares.permute(0, 3, 1, 2)
