"""The adversarial losses and their two regularisers, R1 and path length."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYOUT_SIZE = 16  # pixels
PATH_DECAY = 0.01  # of the mean path length, towards a step's own


def generator_loss(fake: Tensor) -> Tensor:
    """−E log σ(D(G)), which does not saturate (Goodfellow et al. 2014, section 3). Scores [n]."""
    return F.softplus(-fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−E log σ(D(x)) − E log(1 − σ(D(G))). Scores [n] of real and generated images."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def r1_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """E ‖∇ₓ D(x)‖² at real images x (Mescheder et al. 2018, equation 9, without its γ/2).

    Scores [n] of images [n, 3, s, s], which need gradients.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()


def layout_loss(generated: Tensor, real: Tensor) -> Tensor:
    """E (generated − real)² of images [n, 3, s, s] at `LAYOUT_SIZE` × `LAYOUT_SIZE` pixels."""
    return F.adaptive_avg_pool2d(generated - real, min(LAYOUT_SIZE, real.shape[-1])).square().mean()


class PathLength(nn.Module):
    """E (‖Jᵀy‖ − a)² with J = ∂G/∂w, y ~ N(0, I) and a the moving mean of the lengths.

    Karras et al. 2020, equation 4: a step in w should change the image by the same amount at every
    w and in every direction. y is scaled so that lengths do not depend on the number of pixels.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """The penalty of images [n, 3, s, s] generated from w [n, width]; noise as the images."""
        y = noise / (images.shape[2] * images.shape[3]) ** 0.5
        (gradient,) = torch.autograd.grad((images * y).sum(), w, create_graph=True)
        lengths = gradient.float().square().sum(dim=1).sqrt()
        if self.training:
            self.mean.lerp_(global_mean(lengths)[0], PATH_DECAY)
        return (lengths - self.mean).square().mean()


def global_mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and number of values [n] over all workers; no gradient flows through."""
    totals = torch.stack([values.detach().sum(), values.new_tensor(len(values))])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(totals)
    return totals[0] / totals[1], totals[1]
