"""The adversarial losses and their two regularisers, R1 and path length."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.decoders.gan.workers import global_mean

LAYOUT = 16  # pixels to a side
PATH_DECAY = 0.01  # of the mean path length, towards a step's own


def generator_loss(fake: Tensor) -> Tensor:
    """−E log σ(D(G)), which does not saturate (Goodfellow et al. 2014, section 3). Scores [n]."""
    return F.softplus(-fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−E log σ(D(x)) − E log(1 − σ(D(G))). Scores [n] of real and of drawn pictures."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def r1_penalty(scores: Tensor, pictures: Tensor) -> Tensor:
    """E ‖∇ₓ D(x)‖² at real pictures x (Mescheder et al. 2018, equation 9, without its γ/2).

    scores [n] of pictures [n, 3, s, s], which need gradients.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), pictures, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()


def layout_loss(drawn: Tensor, real: Tensor) -> Tensor:
    """E (drawn − real)² of pictures [n, 3, s, s] at `LAYOUT` × `LAYOUT` pixels: where what is."""
    return F.adaptive_avg_pool2d(drawn - real, min(LAYOUT, real.shape[-1])).square().mean()


class PathLength(nn.Module):
    """E (‖Jᵀy‖ − a)² with J = ∂G/∂w, y ~ N(0, I) and a the moving mean of the lengths.

    Karras et al. 2020, equation 4: a step in w is to change the picture by the same amount,
    wherever it is taken and in whichever direction. y is scaled so that lengths do not depend on
    the number of pixels.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, pictures: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """pictures [n, 3, s, s] drawn from w [n, width]; y of the same shape as the pictures."""
        y = noise / (pictures.shape[2] * pictures.shape[3]) ** 0.5
        (gradient,) = torch.autograd.grad((pictures * y).sum(), w, create_graph=True)
        lengths = gradient.float().square().sum(dim=1).sqrt()
        if self.training:
            self.mean.lerp_(global_mean(lengths)[0], PATH_DECAY)
        return (lengths - self.mean).square().mean()
