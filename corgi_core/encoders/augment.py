"""Augmentation that leaves captions true: never a mirror image, for "left" must stay left."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SCALE = 0.15  # images grow or shrink by at most this share
SHIFT = 0.06  # of the side, in either direction
ANGLE = 0.15  # radians
CONTRAST = 0.1
BRIGHTNESS = 0.05
NUMBERS = 6  # uniform numbers that one image needs


def jittered(pixels: Tensor, uniform: Tensor) -> Tensor:
    """Images moved, turned, scaled and relit a little; what comes into view is white.

    pixels [n, 3, h, w] in [0, 1]; uniform [n, 6] in [0, 1) → [n, 3, h, w], about in [0, 1].
    """
    zoom, right, down, turn, contrast, brightness = (2 * uniform - 1).unbind(dim=1)
    zoom, angle = 1 + SCALE * zoom, ANGLE * turn
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    across = torch.stack([cos, -sin, 2 * SHIFT * right], dim=1)
    along = torch.stack([sin, cos, 2 * SHIFT * down], dim=1)
    grid = F.affine_grid(torch.stack([across, along], dim=1), list(pixels.shape), False)
    ink = F.grid_sample(1 - pixels, grid, align_corners=False)  # outside the image: no ink
    gain = (1 + CONTRAST * contrast).view(-1, 1, 1, 1)
    return (1 - ink) * gain + (BRIGHTNESS * brightness).view(-1, 1, 1, 1)
