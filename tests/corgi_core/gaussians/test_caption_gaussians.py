"""A Gaussian for every caption: its regressions, its residuals, and what a dropped one knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from corgi_core.config import GaussianSettings
from corgi_core.data.keys import ListedKeys, SplitKeys
from corgi_core.diffusion.schedule import Schedule
from corgi_core.encoders.similarity import recall_at
from corgi_core.encoders.tokens import padded
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank, Gaussians
from corgi_core.gaussians.caption_conditioned import CaptionGaussians, folds_of
from corgi_core.prior.caption_fit import FOLDS, fit_caption_gaussians
from corgi_core.prior.model import PriorModel
from corgi_core.prior.network import PriorNetwork, PriorShape
from corgi_core.prior.ridge import ridge_prior
from corgi_core.training.randomness import StepRandom
from tests.helpers.captioned_stores import DIMS, TOKEN, Made, captioned_stores
from tests.helpers.tiny_prior import SETTINGS, made_prior

D = sum(DIMS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return captioned_stores(tmp_path_factory.mktemp("made"))


ALL_IMAGES = GaussianBank.standard(DIMS)


def fit(made: Made, kappa: float = 1.0, contrast: float = 0.0) -> CaptionGaussians:
    keys = (SplitKeys(made.dataset, split) for split in ("train", "validation"))
    settings = GaussianSettings(kappa=kappa, contrast=contrast)
    return fit_caption_gaussians(*keys, made.images, made.texts, ALL_IMAGES, settings)[0]


@pytest.fixture(scope="module")
def gaussians(made: Made) -> CaptionGaussians:
    return fit(made)


def training_captions(made: Made) -> tuple[torch.Tensor, ...]:
    """Tokens, mask, text and image embeddings of the training captions."""
    keys = made.texts.keys
    rows = np.flatnonzero(np.isin(keys, made.dataset.keys("train")))
    tokens, mask = padded(made.texts.read_ragged("tokens").take(rows), "cpu")
    image = dict(zip(made.images.keys.tolist(), made.images.read("image"), strict=True))
    stored = torch.from_numpy(np.stack([image[key] for key in keys[rows].tolist()]))
    return tokens, mask, torch.from_numpy(made.texts.read("text")[rows]), stored


def test_a_caption_s_mean_is_the_ridge_regression_of_all_captions(
    made: Made, gaussians: CaptionGaussians
) -> None:
    tokens, mask, text, _ = training_captions(made)
    ridge = ridge_prior(made.dataset, made.images, made.texts)
    found = gaussians.start(tokens, mask, text)
    features, _ = made.of("train")
    expected = ridge.predict(torch.from_numpy(features).float())
    torch.testing.assert_close(found.cond.mean, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.uncond.mean, torch.zeros_like(expected))
    assert (found.residual, found.c.tolist()) == (True, [0] * len(text))


def test_in_training_an_image_s_own_fold_is_left_out(
    made: Made, gaussians: CaptionGaussians
) -> None:
    """Against scikit-learn's ridge of the other folds; Σ is the covariance of what is left."""
    tokens, mask, text, images = training_captions(made)
    found = gaussians.start(tokens, mask, text, images).cond
    (x, z), fold = made.of("train"), folds_of(images, FOLDS).numpy()
    penalty = ridge_prior(made.dataset, made.images, made.texts).card["penalty"]
    expected = np.empty_like(z)
    for number in range(FOLDS):
        others = fold != number
        variances = x[others, :D].var(0).mean(), x[others, D:].var(0).mean()
        scale = np.repeat(variances, [D, TOKEN]) ** -0.5
        ridge = Ridge(alpha=penalty * others.sum()).fit(x[others] * scale, z[others])
        expected[~others] = ridge.predict(x[~others] * scale)
    assert len(set(fold.tolist())) == FOLDS
    np.testing.assert_allclose(found.mean, expected, atol=1e-3)
    left = z - expected
    share = 150 / (150 + D)  # by images, of two captions each
    covariance = share * left.T @ left / len(z)
    covariance += (1 - share) * np.eye(D) * np.square(left).sum() / (len(z) * D)
    axes = found.std[0] * found.basis
    np.testing.assert_allclose(axes @ axes.T, covariance, rtol=1e-3, atol=1e-3)
    u = found.whiten(images)
    torch.testing.assert_close(found.unwhiten(u), images, rtol=1e-4, atol=1e-4)
    assert 0.8 < u.square().mean() < 1.2
    inside = gaussians.start(tokens, mask, text).cond.mean
    assert (images - inside).square().mean() < 0.98 * np.square(z - expected).mean()


def test_captions_of_one_image_are_in_one_fold_and_folds_are_of_like_size() -> None:
    images = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0)).half()
    fold = folds_of(images, FOLDS)
    assert torch.equal(fold, folds_of(images.float(), FOLDS))
    assert torch.bincount(fold, minlength=FOLDS).min() > 300


def test_kappa_scales_the_deviation_alone(made: Made, gaussians: CaptionGaussians) -> None:
    wide = fit(made, kappa=3.0)
    torch.testing.assert_close(wide.std, 3 * gaussians.std)
    assert torch.equal(wide.weight, gaussians.weight)
    assert wide.digest != gaussians.digest


def test_few_captions_are_named(made: Made) -> None:
    train, validation = (SplitKeys(made.dataset, split) for split in ("train", "validation"))
    one = ListedKeys(made.dataset.keys("train")[:1])
    for captioned, held, message in (
        (ListedKeys(()), validation, "no training caption"),
        (train, ListedKeys(()), "no validation caption"),
        (one, validation, "of one image"),
    ):
        with pytest.raises(CorgiError, match=message):
            fit_caption_gaussians(
                captioned, held, made.images, made.texts, ALL_IMAGES, GaussianSettings()
            )


def test_whitening_is_in_float32_where_the_network_is_not(gaussians: CaptionGaussians) -> None:
    axes = Gaussians(gaussians.bias.expand(9, D), gaussians.std.expand(9, D), gaussians.basis)
    z = torch.randn(9, D, generator=torch.Generator().manual_seed(0))
    expected = axes.whiten(z), axes.unwhiten(z)
    with torch.autocast("cpu", torch.bfloat16):
        found = axes.whiten(z), axes.unwhiten(z)
    assert all(map(torch.equal, found, expected))


def test_few_captions_have_a_covariance_that_is_no_chance(made: Made) -> None:
    """Of three captions in 12 dimensions: no direction is without variance."""
    few, validation = (
        ListedKeys(made.dataset.keys("train")[:4]),
        SplitKeys(made.dataset, "validation"),
    )
    found, _ = fit_caption_gaussians(
        few, validation, made.images, made.texts, ALL_IMAGES, GaussianSettings()
    )
    assert found.std.min() > 0.3 * found.std.max()


def test_the_contrastive_term_buys_retrieval_of_captions_that_were_left_out(made: Made) -> None:
    tokens, mask, text, images = (each[::2] for each in training_captions(made))
    plain, contrasted = (
        fit(made, contrast=contrast).start(tokens, mask, text, images).cond.mean
        for contrast in (0.0, 0.5)
    )
    before, after = (recall_at(mean, images, (1,), DIMS)[1] for mean in (plain, contrasted))
    assert after > before


@pytest.fixture(scope="module")
def prior(gaussians: CaptionGaussians, made: Made) -> PriorModel:
    torch.manual_seed(0)
    network = PriorNetwork(PriorShape(D, TOKEN, 6, gaussians=1, width=32, layers=2, heads=4))
    with torch.no_grad():
        network.head.weight.normal_(std=0.3)
    settings = replace(SETTINGS, guidance=2.0)
    return PriorModel(network.eval(), gaussians, settings, made.texts.spec, card={})


def test_a_dropped_caption_does_not_come_back_through_its_gaussian(
    made: Made, prior: PriorModel
) -> None:
    """With a guidance of 0 only the unconditional branch is left, so captions cannot differ."""
    tokens, mask, text, _ = training_captions(made)
    same_noise = [0] * len(text)

    def differing(guidance: float) -> float:
        z = prior.sample(tokens, mask, text, guidance=guidance, sample_ids=same_noise)
        return float((z - z.mean(dim=0)).square().mean().sqrt())

    assert differing(1.0) > 0.2
    assert differing(0.0) < 0.01  # 0 but for √ᾱ_T (μ(y) − μ̄), which x_T has too much


@pytest.mark.parametrize(("sampler", "count"), [("ddpm", 1), ("dpm++", 1), ("ddpm", 6)])
def test_the_compiled_step_serves_guidance_from_two_gaussians(
    made: Made, prior: PriorModel, sampler: str, count: int
) -> None:
    some = [each[:count] for each in training_captions(made)[:3]]
    eager = prior.sample(*some, sampler=sampler, guidance=2.0)
    same = PriorModel(prior.network, prior.bank, prior.settings, prior.encoders, {}).compile()
    torch.testing.assert_close(same.sample(*some, sampler=sampler, guidance=2.0), eager)


def test_it_is_saved_in_the_prior_without_its_folds(prior: PriorModel, tmp_path: Path) -> None:
    prior.save(tmp_path / "prior")
    loaded = PriorModel.load(tmp_path / "prior")
    assert isinstance(loaded.bank, CaptionGaussians)
    assert loaded.bank.fold_weights is None
    assert loaded.digest == prior.digest
    texts = torch.randn(2, 3, TOKEN), torch.ones(2, 3, dtype=torch.bool), torch.randn(2, D)
    assert torch.equal(loaded.sample(*texts), prior.sample(*texts))


def test_before_training_samples_are_those_of_the_gaussian(tmp_path: Path) -> None:
    """Of the network that training starts with; its first loss is what the Gaussian misses."""
    task = made_prior(tmp_path, pictures=240, shards=2)
    of_all = GaussianBank.standard((task.bank.width,))
    bank, fitted = fit_caption_gaussians(
        task.captioned, task.validation_keys, task.images, task.texts, of_all, GaussianSettings()
    )
    settings = replace(task.settings, p2_gamma=0.0, cond_dropout=0.0, noise_samples=64)
    task = replace(task, bank=bank, settings=settings)
    task.prepare_data(tmp_path)
    rows = torch.arange(task.rows)
    batch, random = task.batch(rows, StepRandom(0, 0, len(rows))), StepRandom(0, 0, len(rows))
    network = task.build().eval()
    loss = float(task.loss(network, batch, random)["loss"].detach())
    missed = 1 - Schedule.linear().alphas_cumprod.mean()  # E‖z_0 − E[z_0 | z_t]‖² of a normal one
    assert loss == pytest.approx(float(missed * bank.std.square().mean()), rel=0.1)
    assert 0.2 < fitted["explained"] < 1
    one = [each[:1].expand(256, *each.shape[1:]) for each in task.held_out().batch(rows[:1])[:3]]
    prior = PriorModel(network, bank, replace(settings, num_steps=1000), task.texts.spec, {})
    predicted = list[torch.Tensor]()
    prior.sample(*one, callback=lambda t, z_t, z_0: predicted.append(z_0))
    u = bank.start(*one).cond.whiten(predicted[999])  # at t = 0
    assert u.std() == pytest.approx(1, abs=0.05)
    assert torch.cov(u.T).fill_diagonal_(0).abs().max() < 0.3
