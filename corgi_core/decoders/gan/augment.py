"""Adaptive discriminator augmentation (Karras et al., "Training GANs with Limited Data", 2020).

The discriminator sees real and drawn pictures changed alike, each change with probability p. As
long as p is well below 1 the generator still learns the unchanged pictures. p grows while the
discriminator is too sure of real pictures, which is how learning them by heart shows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.decoders.gan.workers import global_mean

SHIFT = 0.25  # half the side is 1, so an eighth of it at most
ZOOM = 0.4  # octaves
BRIGHTNESS, CONTRAST, SATURATION = 0.4, 0.5, 1.0  # the last two in octaves
NUMBERS = 14  # uniform numbers that one picture needs


class AdaptiveAugmentation(nn.Module):
    """`p` moves by one in `pictures` real ones, towards a mean sign of the scores of `target`."""

    p: Tensor

    def __init__(self, target: float, pictures: int) -> None:
        super().__init__()
        self._target, self._pictures = target, pictures
        self.register_buffer("p", torch.zeros(()))

    def forward(self, pictures: Tensor, uniform: Tensor) -> Tensor:
        """As `augmented`, with the present p."""
        return augmented(pictures, self.p, uniform)

    @torch.no_grad()
    def adapt(self, scores: Tensor) -> None:
        """Take one step, by the scores [n] of real pictures: r_t = E[sign D] of section 3."""
        sign, count = global_mean(scores.sign())
        step = (sign - self._target).sign() * count / self._pictures
        self.p.copy_((self.p + step).clamp(0, 1))


def augmented(pictures: Tensor, p: Tensor | float, uniform: Tensor) -> Tensor:
    """Mirrored, moved, scaled and relit, each with probability p and by a random amount.

    pictures [n, 3, s, s] in −1 … 1, uniform [n, 14] in [0, 1) → [n, 3, s, s]. Differentiable in
    the pictures; the unchanged ones where p is 0.
    """
    chances, amounts = uniform.chunk(2, dim=1)
    amounts = torch.where(chances < p, 2 * amounts - 1, 0.0)  # an amount of 0 changes nothing
    mirror, right, down, zoom, brightness, contrast, saturation = amounts.unbind(dim=1)
    return _relit(_moved(pictures, mirror, right, down, zoom), brightness, contrast, saturation)


def _moved(pictures: Tensor, mirror: Tensor, right: Tensor, down: Tensor, zoom: Tensor) -> Tensor:
    scale, zero = torch.exp2(ZOOM * zoom), torch.zeros_like(zoom)
    across = torch.stack([torch.where(mirror < 0, -scale, scale), zero, SHIFT * right], dim=1)
    along = torch.stack([zero, scale, SHIFT * down], dim=1)
    grid = F.affine_grid(torch.stack([across, along], dim=1), list(pictures.shape), False)
    return F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)


def _relit(pictures: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    grey = pictures.mean(dim=1, keepdim=True)
    pictures = grey + torch.exp2(SATURATION * saturation)[:, None, None, None] * (pictures - grey)
    pictures = torch.exp2(CONTRAST * contrast)[:, None, None, None] * pictures
    return pictures + BRIGHTNESS * brightness[:, None, None, None]
