"""Corgi's prior, the DALL-E 2 baseline's bank: the same diffusion in the same coordinates as peers.

`python -m benchmarks.prior_systems.corgi` speaks the protocol of `child`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.prior_systems.child import serve
from benchmarks.prior_systems.system import TEXT_DROPOUT, Captions, Case, System
from corgi_core.config import preset_named
from corgi_core.diffusion.schedule import TIMESTEPS, Schedule, weighted_error
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.prior.model import PriorModel
from corgi_core.prior.network import PriorNetwork, PriorShape

BLOCK = 512  # of one CLIP encoder; d = 1536 is three of them


def shape_of(case: Case) -> PriorShape:
    """The network's shape in this case."""
    return PriorShape(
        embedding_width=case.dim, text_width=case.text_width, text_tokens=case.text_tokens,
        gaussians=1, width=case.width, layers=case.layers, heads=case.heads,
    )  # fmt: skip


class Corgi(System):
    """Sampling through a compiled PriorModel, training as PriorTask does it, default weights."""

    def __init__(self, case: Case) -> None:
        encoder_dims = (BLOCK,) * (case.dim // BLOCK) if case.dim % BLOCK == 0 else (case.dim,)
        bank = GaussianBank.standard(encoder_dims).to(case.device)
        self.network = PriorNetwork(shape_of(case)).to(case.device)
        self.settings = replace(
            preset_named("emoji").prior,
            width=case.width, layers=case.layers, heads=case.heads,
            noise_samples=case.noise_samples, cond_dropout=TEXT_DROPOUT, guidance=case.guidance,
            num_steps=case.steps,
        )  # fmt: skip
        self.model = PriorModel(self.network, bank, self.settings, encoders={}, card={}).compile()
        self.noise_samples = case.noise_samples
        self._schedule = Schedule.linear()

    def sample(self, captions: Captions) -> Tensor:
        tokens, mask, text, _ = captions
        return self.model.sample(tokens, mask, text, sampler="ddpm")

    def loss(self, captions: Captions) -> Tensor:
        tokens, mask, text, z_0 = captions
        length = max(1, int(mask.sum(dim=1).max()))
        tokens, mask = tokens[:, :length], mask[:, :length]
        n, d = z_0.shape
        t = torch.randint(TIMESTEPS, (n, self.noise_samples), device=z_0.device)
        noise = torch.randn(n, self.noise_samples, d, device=z_0.device)
        z_t = self._schedule.add_noise(z_0.unsqueeze(1), noise, t)
        shrunk = self._schedule.shrink(z_t, t)
        cond_mask = torch.rand(n, device=z_0.device) >= TEXT_DROPOUT
        predicted = self.network(tokens, mask, text, cond_mask, shrunk, t, _gaussian(text)).float()
        weights = self._schedule.p2_weights(t, self.settings.p2_gamma)
        return weighted_error(z_0.unsqueeze(1), predicted, weights)

    def predict(self, captions: Captions, z_t: Tensor, t: Tensor) -> Tensor:
        tokens, mask, text, _ = captions
        cond_mask = torch.ones(len(text), dtype=torch.bool, device=text.device)
        t = t.unsqueeze(1)
        shrunk = self._schedule.shrink(z_t.unsqueeze(1), t)
        return self.network(tokens, mask, text, cond_mask, shrunk, t, _gaussian(text)).squeeze(1)


def _gaussian(text: Tensor) -> Tensor:
    return torch.zeros(len(text), dtype=torch.long, device=text.device)


if __name__ == "__main__":
    serve(Corgi)
