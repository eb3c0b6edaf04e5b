"""A prior's way from noise: its start, each step by equation (3), and where it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from corgi_core.diffusion.samplers import noise_for
from corgi_core.diffusion.schedule import Schedule
from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.gaussians.caption_conditioned import CaptionGaussians
from corgi_core.pipeline import CorgiPipeline
from corgi_core.prior.model import PriorModel
from tests.helpers.tiny_pipeline import BLOCKS, with_gaussians

D, K, STEPS = sum(BLOCKS), 3, 5
PROMPT = "a red apple"


@pytest.fixture(scope="module")
def several(pipeline: CorgiPipeline) -> CorgiPipeline:
    """The tiny pipeline, with a prior of three Gaussians."""
    return with_gaussians(pipeline, K)


@pytest.mark.parametrize("gaussian", [None, 2])
def test_it_starts_at_the_gaussian_and_moves_by_the_posterior(several, gaussian) -> None:
    way, _ = several.trajectory(PROMPT, prior_steps=STEPS, seed=4, sample_id=2, gaussian=gaussian)
    assert way.timesteps == (1000, 800, 600, 400, 200, 0)
    own = int(several.prior.bank.assign(several.clip.encode_texts([PROMPT]))[0])
    assert way.gaussian == (own if gaussian is None else gaussian)
    mean, std = (part[way.gaussian] for part in (several.prior.bank.means, several.prior.bank.std))
    noise = noise_for(4, [2], (STEPS, D))[0]
    torch.testing.assert_close(way.z_t[0], mean + std * noise[0])
    torch.testing.assert_close(way.start.unwhiten(noise[:1])[0], way.z_t[0])
    schedule = Schedule.linear()
    for i, (t, t_next) in enumerate(zip(way.timesteps[:-2], way.timesteps[1:], strict=False)):
        u = [(z - mean) / std for z in way.z_t[i : i + 2]]
        moved, variance = schedule.posterior(u[0], torch.zeros(D), t - 1, t_next - 1)
        with_one, _ = schedule.posterior(u[0], torch.ones(D), t - 1, t_next - 1)
        u_0 = (u[1] - variance**0.5 * noise[i + 1] - moved) / (with_one - moved)
        predicted = scale_per_encoder((mean + std * u_0)[None], BLOCKS)[0]
        torch.testing.assert_close(way.z_0[i], predicted, atol=1e-3, rtol=0)


@pytest.mark.parametrize("gaussian", [None, 0])
def test_it_ends_at_the_image_of_that_caption_and_seed(several, gaussian) -> None:
    options = {"seed": 6, "gaussian": gaussian, "num_steps": 2}
    way, images = several.trajectory(PROMPT, sample_id=1, output_type="pt", **options)
    sampled = several.embed_text(PROMPT, 2, seed=6, gaussian=gaussian)
    torch.testing.assert_close(way.z_t[-1], sampled[1])
    torch.testing.assert_close(way.z_0[-2:], sampled[1].expand(2, -1), atol=1e-5, rtol=0)
    expected = several.text_to_image(PROMPT, 2, output_type="pt", **options)
    assert len(images) == len(way.timesteps) == several.prior.settings.num_steps + 1
    torch.testing.assert_close(images[-1], expected[1], atol=1e-4, rtol=0)
    assert (images[0] - images[-1]).abs().max() > 1e-3


def test_images_depend_on_the_start_and_on_the_priors_steps(several) -> None:
    own = int(several.prior.bank.assign(several.clip.encode_texts([PROMPT]))[0])
    made = {
        number: several.text_to_image(PROMPT, gaussian=number, output_type="pt")
        for number in (None, *range(K))
    }
    assert torch.equal(made[None], made[own])
    assert not torch.allclose(made[own], made[(own + 1) % K], atol=1e-3)
    few = several.text_to_image(PROMPT, prior_steps=1, output_type="pt")
    assert not torch.allclose(few, made[None], atol=1e-3)


def test_a_start_that_is_not_there_and_a_decoder_without_a_prior_are_refused(
    several, pipeline, monkeypatch
) -> None:
    for number in (-1, K):
        with pytest.raises(CorgiError, match=f"no Gaussian {number}: this prior has 3"):
            several.text_to_image(PROMPT, gaussian=number)
    with pytest.raises(CorgiError, match="has 1, from 0"):
        pipeline.trajectory(PROMPT, gaussian=1)
    monkeypatch.setattr(type(several.decoder), "input_kind", "text")
    with pytest.raises(CorgiError, match="without a prior"):
        several.trajectory(PROMPT)


def test_where_every_caption_has_a_gaussian_the_way_starts_at_its_own(pipeline) -> None:
    old, random = pipeline.prior, torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(D, D, generator=random)).Q
    weight, bias, mean = (torch.randn(*n, D, generator=random) for n in ((D,), (), ()))
    bank = CaptionGaussians(weight, bias, mean, torch.linspace(0.2, 1, D), basis, BLOCKS, kappa=1.0)
    own = replace(pipeline, prior=PriorModel(old.network, bank, old.settings, old.encoders, {}))
    way, _ = own.trajectory(PROMPT, seed=4)
    text = own.clip.encode_texts([PROMPT])
    torch.testing.assert_close(way.start.mean, text @ weight + bias)
    noise = noise_for(4, [0], (old.settings.num_steps, D))[0, 0]
    expected = (text @ weight + bias)[0] + basis @ (torch.linspace(0.2, 1, D) * noise)
    torch.testing.assert_close(way.z_t[0], expected)
