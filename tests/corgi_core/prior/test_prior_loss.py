"""What a prior's training asks of its network, against the closed form for a network that does not
read captions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from corgi_core.diffusion.schedule import Schedule
from corgi_core.gaussians.fit import fit_bank
from corgi_core.training.randomness import StepRandom
from tests.helpers.losses import loss_of
from tests.helpers.tiny_prior import SETTINGS, made_prior

PICTURES = 240


class Captionless(nn.Module):
    """Predicts its input."""

    def forward(self, tokens, mask, text, cond_mask, shrunk, t, c):
        return shrunk


@pytest.mark.parametrize("kappa", [0.5, 1.0, 3.0])
def test_the_shrunk_embedding_alone_has_the_error_of_its_closed_form(tmp_path, kappa):
    """Its error is κσ((ᾱ − 1) u_0 + √(ᾱ(1 − ᾱ)) ε), where the data have E[(κσ u_0)²] = σ²."""
    task = made_prior(tmp_path, replace(SETTINGS, noise_samples=200, p2_gamma=0.0), PICTURES)
    captioned = task.captioned.among("00000", task.images.keys)
    image = task.images.read("image")[captioned].astype(np.float32)
    fitted, _ = fit_bank(image, 1, task.bank.encoder_dims, seed=0)
    task.bank = fitted.with_kappa(kappa)
    loss = loss_of(task, Captionless(), torch.arange(len(image)), StepRandom(0, 0, len(image)))[
        "loss"
    ]
    noise = 1 - Schedule.linear().alphas_cumprod
    variance = float(image.var(axis=0).mean())
    expected = variance * (noise.square().mean() + kappa**2 * ((1 - noise) * noise).mean())
    assert float(loss) == pytest.approx(float(expected), rel=0.02)
