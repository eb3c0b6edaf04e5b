"""Generator and discriminator as one model, whose one call is what both need of a step.

Both are trained in one backward pass, each by its own terms. What the generator is told by the
discriminator comes through a copy with detached parameters; what the discriminator is shown of the
generator is detached. So each part's gradient is that of its own loss.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from corgi_core.decoders.gan.augment import AdaptiveAugmentation
from corgi_core.decoders.gan.discriminator import Discriminator, Judgement
from corgi_core.decoders.gan.generator import GanShape, Generator
from corgi_core.decoders.gan.losses import PathLength, r1_penalty


class Match(NamedTuple):
    """One step of both. The generator learns from `drawn`, `seen` and `path`, the discriminator
    from `real`, `fake` and `r1`."""

    drawn: Tensor  # pictures [n, 3, s, s], −1 … 1 or so
    seen: Judgement  # of them, by a discriminator that does not learn from it
    path: Tensor  # path length penalty, 0 where it was not asked for
    real: Judgement  # of real pictures
    fake: Judgement  # of the drawn ones, for the discriminator
    r1: Tensor  # gradient penalty at the real pictures as it sees them, or 0
    p: Tensor  # probability of the changes that they were seen with


class GanNetwork(nn.Module):
    """Generator, discriminator, and what adapts to both: p and the mean path length."""

    def __init__(self, shape: GanShape, augment_target: float, augment_pictures: int) -> None:
        super().__init__()
        self.generator = Generator(shape)
        self.discriminator = Discriminator(shape)
        self.augment = AdaptiveAugmentation(augment_target, augment_pictures)
        self.path_length = PathLength()

    def forward(
        self,
        pictures: Tensor,
        z: Tensor,
        latent: Tensor,
        uniform: Tensor,
        path_noise: Tensor | None,
        with_r1: bool,
    ) -> Match:
        """Real pictures [n, 3, s, s] in −1 … 1, their embeddings z [n, d], latents [n, width],
        uniform [n, 3, 14] for three augmentations, y [n, 3, s, s] if path lengths are asked for."""
        for_seen, for_real, for_fake = uniform.unbind(dim=1)
        w, white = self.generator.map(latent), self.generator.white(z)
        drawn = self.generator.synthesise(w, white)
        zero = drawn.new_zeros(())
        path = zero if path_noise is None else self.path_length(drawn, w, path_noise)

        unlearning = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        seen: Judgement = torch.func.functional_call(
            self.discriminator, unlearning, (self.augment(drawn, for_seen), white)
        )
        shown = self.augment(pictures, for_real).requires_grad_(with_r1)
        faked = self.augment(drawn.detach(), for_fake)
        both = self.discriminator(torch.cat([shown, faked]), torch.cat([white, white]))
        real, fake = (Judgement(*part) for part in zip(*(x.chunk(2) for x in both), strict=True))
        r1 = r1_penalty(real.score, shown) if with_r1 else zero
        p = self.augment.p.clone()
        if self.training:
            self.augment.adapt(real.score)
        return Match(drawn, seen, path, real, fake, r1, p)
