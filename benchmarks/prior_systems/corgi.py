"""Corgi's prior, the DALL-E 2 baseline's bank: the same diffusion in the same coordinates as peers.

Where quality is compared, it is the best of its priors instead, with a Gaussian for every caption.

`python -m benchmarks.prior_systems.corgi` speaks the protocol of `child`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from upath import UPath

from benchmarks.prior_systems.child import serve
from benchmarks.prior_systems.system import TEXT_DROPOUT, Captions, Case, System
from corgi_core.config import preset_named
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.keys import SplitKeys, validation_keys
from corgi_core.data.splits import TRAIN
from corgi_core.diffusion.schedule import TIMESTEPS, Schedule, weighted_error
from corgi_core.evaluation.split_overlap import SplitOverlap
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.gaussians.caption_conditioned import CaptionGaussians
from corgi_core.gaussians.fit import bank_of
from corgi_core.gaussians.stream import EmbeddingStream
from corgi_core.prior.caption_fit import fit_caption_gaussians
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
        bank: GaussianBank | CaptionGaussians
        bank = _standard(case) if case.images is None else _of_captions(case)
        self._token_width = case.text_width
        if isinstance(bank, CaptionGaussians):  # fitted to tokens as stored, without the padding
            self._token_width = len(bank.weight) - bank.width
        shape = replace(shape_of(case), text_width=self._token_width)
        self.network = PriorNetwork(shape).to(case.device)
        if case.images is not None:  # it predicts a residual, and begins at 0
            nn.init.zeros_(self.network.head.weight)
            nn.init.zeros_(self.network.head.bias)
        self.settings = replace(
            preset_named("emoji").prior,
            width=case.width, layers=case.layers, heads=case.heads,
            noise_samples=case.noise_samples, cond_dropout=TEXT_DROPOUT, guidance=case.guidance,
            num_steps=case.steps,
        )  # fmt: skip
        self.model = PriorModel(self.network, bank, self.settings, encoders={}, card={}).compile()
        self.noise_samples = case.noise_samples
        self._schedule = Schedule.linear()

    def sample(self, captions: Captions, steps: int, guidance: float) -> Tensor:
        tokens, mask, text, _ = self._trimmed(captions)
        return self.model.sample(
            tokens, mask, text, num_steps=steps, guidance=guidance, sampler="ddpm"
        )

    def loss(self, captions: Captions) -> Tensor:
        tokens, mask, text, z_0 = self._trimmed(captions)
        n, d = z_0.shape
        t = torch.randint(TIMESTEPS, (n, self.noise_samples), device=z_0.device)
        noise = torch.randn(n, self.noise_samples, d, device=z_0.device)
        cond_mask = torch.rand(n, device=z_0.device) >= TEXT_DROPOUT
        start = self.model.bank.start(tokens, mask, text, z_0)
        gaussians = start.where(cond_mask).of_several()
        u_t = self._schedule.add_noise(gaussians.whiten(z_0.unsqueeze(1)), noise, t)
        shrunk = gaussians.unwhiten(self._schedule.shrink(u_t, t))
        predicted = self.network(tokens, mask, text, cond_mask, shrunk, t, start.c).float()
        if start.residual:
            predicted = shrunk + predicted
        weights = self._schedule.p2_weights(t, self.settings.p2_gamma)
        return weighted_error(z_0.unsqueeze(1), predicted, weights)

    def _trimmed(self, captions: Captions) -> Captions:
        """Padded to the longest caption only, and as wide as the network reads."""
        length = max(1, int(captions.mask.sum(dim=1).max()))
        tokens = captions.tokens[:, :length, : self._token_width]
        return captions._replace(tokens=tokens, mask=captions.mask[:, :length])

    def predict(self, captions: Captions, z_t: Tensor, t: Tensor) -> Tensor:
        tokens, mask, text, _ = captions
        cond_mask = torch.ones(len(text), dtype=torch.bool, device=text.device)
        t = t.unsqueeze(1)
        shrunk = self._schedule.shrink(z_t.unsqueeze(1), t)
        return self.network(tokens, mask, text, cond_mask, shrunk, t, _gaussian(text)).squeeze(1)


def _standard(case: Case) -> GaussianBank:
    encoder_dims = (BLOCK,) * (case.dim // BLOCK) if case.dim % BLOCK == 0 else (case.dim,)
    return GaussianBank.standard(encoder_dims).to(case.device)


def _of_captions(case: Case) -> CaptionGaussians:
    """Fitted to the training captions."""
    stores, dataset = UPath(case.stores or ""), Dataset.load(UPath(case.images or ""))
    images, texts = (ArrayStore.load(stores / f"{kind}_embeddings") for kind in ("image", "text"))
    validation = validation_keys(dataset, SplitOverlap.load(stores / "split_overlap").left_out)
    preset = preset_named("embeddings")
    training = EmbeddingStream.of_split(dataset, images, TRAIN)
    of_all, _ = bank_of("shifted-k1", training, images.spec["encoder_dims"], preset)
    captioned = SplitKeys(dataset, TRAIN)
    bank, _ = fit_caption_gaussians(captioned, validation, images, texts, of_all, preset.gaussians)
    return bank.to(case.device)


def _gaussian(text: Tensor) -> Tensor:
    return torch.zeros(len(text), dtype=torch.long, device=text.device)


if __name__ == "__main__":
    serve(Corgi)
