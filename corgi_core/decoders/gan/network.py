"""Generator and discriminator as one model, whose forward pass is a training step of both.

Both are trained in one backward pass, each by its own loss. The generator's loss uses the
discriminator with detached parameters, and the discriminator's loss uses detached images, so each
part's gradient is that of its own loss.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from corgi_core.decoders.gan.augment import AdaptiveAugmentation
from corgi_core.decoders.gan.discriminator import Discriminator, Judgement
from corgi_core.decoders.gan.generator import GanShape, Generator
from corgi_core.decoders.gan.losses import PathLength, r1_penalty


class GanStep(NamedTuple):
    """What the losses of one step are computed from.

    The generator learns from `generated`, `feedback` and `path`, the discriminator from `real`,
    `fake` and `r1`.
    """

    generated: Tensor  # images [n, 3, s, s], about −1 … 1
    feedback: Judgement  # of them, by the discriminator with detached parameters
    path: Tensor  # path length penalty, 0 if it was not requested
    real: Judgement  # of real images
    fake: Judgement  # of the generated images, detached
    r1: Tensor  # gradient penalty at the augmented real images, or 0
    p: Tensor  # probability of the augmentations


class GanNetwork(nn.Module):
    """Generator, discriminator, and what adapts to both: p and the mean path length."""

    def __init__(self, shape: GanShape, augment_target: float, augment_images: int) -> None:
        super().__init__()
        self.generator = Generator(shape)
        self.discriminator = Discriminator(shape)
        self.augment = AdaptiveAugmentation(augment_target, augment_images)
        self.path_length = PathLength()

    def forward(
        self,
        images: Tensor,
        z: Tensor,
        latent: Tensor,
        uniform: Tensor,
        path_noise: Tensor | None,
        with_r1: bool,
    ) -> GanStep:
        """Generate images, and judge them and the real ones.

        Args:
            images: Real images [n, 3, s, s] in −1 … 1.
            z: Their embeddings [n, d].
            latent: Standard normal [n, latent_width].
            uniform: [n, 3, 14] in [0, 1), for three augmentations.
            path_noise: Standard normal [n, 3, s, s] for the path length penalty, or None.
            with_r1: Whether to compute the gradient penalty.
        """
        for_feedback, for_real, for_fake = uniform.unbind(dim=1)
        w, white = self.generator.map(latent), self.generator.whitening(z)
        generated = self.generator.synthesise(w, white)
        zero = generated.new_zeros(())
        path = zero if path_noise is None else self.path_length(generated, w, path_noise)

        detached = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        feedback: Judgement = torch.func.functional_call(
            self.discriminator, detached, (self.augment(generated, for_feedback), white)
        )
        real_input = self.augment(images, for_real).requires_grad_(with_r1)
        fake_input = self.augment(generated.detach(), for_fake)
        both = self.discriminator(torch.cat([real_input, fake_input]), torch.cat([white, white]))
        real, fake = (Judgement(*part) for part in zip(*(x.chunk(2) for x in both), strict=True))
        r1 = r1_penalty(real.score, real_input) if with_r1 else zero
        p = self.augment.p.clone()
        if self.training:
            self.augment.adapt(real.score)
        return GanStep(generated, feedback, path, real, fake, r1, p)
