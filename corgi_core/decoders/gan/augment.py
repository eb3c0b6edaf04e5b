"""Adaptive discriminator augmentation (Karras et al., "Training GANs with Limited Data", 2020).

Real and generated images are changed alike before the discriminator gets them, each change with
probability p. As long as p is well below 1, the generator still learns the unchanged images. p
grows while the discriminator is too certain of real images, which is a sign of overfitting.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.decoders.gan.losses import global_mean

SHIFT = 0.25  # half the side is 1, so an eighth of it at most
ZOOM = 0.4  # octaves
BRIGHTNESS, CONTRAST, SATURATION = 0.4, 0.5, 1.0  # the last two in octaves
NUMBERS = 14  # uniform numbers that one image needs


class AdaptiveAugmentation(nn.Module):
    """Changes images with probability `p`, which adapts.

    p moves by 1 within `images` real images, so that the mean sign of their scores becomes
    `target`.
    """

    p: Tensor

    def __init__(self, target: float, images: int) -> None:
        super().__init__()
        self._target, self._images = target, images
        self.register_buffer("p", torch.zeros(()))

    def forward(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Images [n, 3, s, s], `augmented` with the present p."""
        return augmented(images, self.p, uniform)

    @torch.no_grad()
    def adapt(self, scores: Tensor) -> None:
        """Adapt p by one step to the scores [n] of real images: r_t = E[sign D] of section 3."""
        sign, count = global_mean(scores.sign())
        step = (sign - self._target).sign() * count / self._images
        self.p.copy_((self.p + step).clamp(0, 1))


def augmented(images: Tensor, p: Tensor | float, uniform: Tensor) -> Tensor:
    """Images mirrored, moved, scaled and relit, each with probability p and by a random amount.

    Args:
        images: [n, 3, s, s] in −1 … 1.
        p: Probability of each change; 0 changes nothing.
        uniform: Random numbers [n, 14] in [0, 1).

    Returns:
        Images [n, 3, s, s], differentiable in the given ones.
    """
    chances, amounts = uniform.chunk(2, dim=1)
    amounts = torch.where(chances < p, 2 * amounts - 1, 0.0)  # an amount of 0 changes nothing
    mirror, right, down, zoom, brightness, contrast, saturation = amounts.unbind(dim=1)
    return _relit(_moved(images, mirror, right, down, zoom), brightness, contrast, saturation)


def _moved(images: Tensor, mirror: Tensor, right: Tensor, down: Tensor, zoom: Tensor) -> Tensor:
    scale, zero = torch.exp2(ZOOM * zoom), torch.zeros_like(zoom)
    across = torch.stack([torch.where(mirror < 0, -scale, scale), zero, SHIFT * right], dim=1)
    along = torch.stack([zero, scale, SHIFT * down], dim=1)
    grid = F.affine_grid(torch.stack([across, along], dim=1), list(images.shape), False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _relit(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    grey = images.mean(dim=1, keepdim=True)
    images = grey + torch.exp2(SATURATION * saturation)[:, None, None, None] * (images - grey)
    images = torch.exp2(CONTRAST * contrast)[:, None, None, None] * images
    return images + BRIGHTNESS * brightness[:, None, None, None]
