"""The smaller picture as a stage's condition: noised, so that the stage learns not to trust it.

A stage is trained on real pictures made smaller, and draws from what the stage before drew. Noise
of a random level, which the UNet is told, hides the difference (Ho et al., Cascaded Diffusion
Models, 2022, section 4.2: conditioning augmentation).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def smaller(pictures: Tensor, size: int) -> Tensor:
    """Pictures [n, 3, s, s] → [n, 3, size, size], means over squares; s is a multiple of size."""
    return F.avg_pool2d(pictures, pictures.shape[-1] // size)


def noised(low: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """√(1 − a²) low + a noise, for low and noise [n, 3, s, s] and levels a [n] in 0 … 1."""
    a = level.view(-1, 1, 1, 1)
    return (1 - a.square()).sqrt() * low + a * noise


def larger(low: Tensor, size: int) -> Tensor:
    """[n, 3, s, s] → [n, 3, size, size], as it stands beside the noisy picture."""
    return F.interpolate(low, size=(size, size), mode="bilinear", align_corners=False)
