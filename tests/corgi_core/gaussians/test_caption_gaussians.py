"""A Gaussian for every caption: its regressions, its residuals, and what a dropped one knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from corgi_core.data.keys import ListedKeys, SplitKeys
from corgi_core.encoders.tokens import padded
from corgi_core.errors import CorgiError
from corgi_core.gaussians.caption_conditioned import CaptionGaussians, folds_of
from corgi_core.gaussians.caption_fit import FOLDS, fit_caption_gaussians
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


def fit(made: Made, kappa: float = 1.0) -> CaptionGaussians:
    keys = (SplitKeys(made.dataset, split) for split in ("train", "validation"))
    return fit_caption_gaussians(*keys, made.images, made.texts, torch.zeros(D), kappa)[0]


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
    """Against scikit-learn's ridge of the other folds; σ² is the mean square of what is left."""
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
    np.testing.assert_allclose(found.std[0], np.square(z - expected).mean(0) ** 0.5, rtol=1e-3)
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
            fit_caption_gaussians(captioned, held, made.images, made.texts, torch.zeros(D), 1.0)


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


@pytest.mark.parametrize("sampler", ["ddpm", "dpm++"])
def test_the_compiled_step_serves_guidance_from_two_gaussians(
    made: Made, prior: PriorModel, sampler: str
) -> None:
    one = [each[:1] for each in training_captions(made)[:3]]
    eager = prior.sample(*one, sampler=sampler, guidance=2.0)
    same = PriorModel(prior.network, prior.bank, prior.settings, prior.encoders, {}).compile()
    torch.testing.assert_close(same.sample(*one, sampler=sampler, guidance=2.0), eager)


def test_it_is_saved_in_the_prior_without_its_folds(prior: PriorModel, tmp_path: Path) -> None:
    prior.save(tmp_path / "prior")
    loaded = PriorModel.load(tmp_path / "prior")
    assert isinstance(loaded.bank, CaptionGaussians)
    assert loaded.bank.fold_weights is None
    assert loaded.digest == prior.digest
    texts = torch.randn(2, 3, TOKEN), torch.ones(2, 3, dtype=torch.bool), torch.randn(2, D)
    assert torch.equal(loaded.sample(*texts), prior.sample(*texts))


def test_the_network_learns_what_the_regression_leaves(tmp_path: Path) -> None:
    """An untrained network that answers 0 has the loss of the cross-fitted residual."""
    task = made_prior(tmp_path, shards=2)
    keys = task.captioned, task.validation_keys
    mean = torch.zeros(task.bank.width)
    bank, fitted = fit_caption_gaussians(*keys, task.images, task.texts, mean, 1.0)
    task = replace(task, bank=bank, settings=replace(task.settings, p2_gamma=0.0, cond_dropout=0.0))
    task.prepare_data(tmp_path)
    rows = torch.arange(task.rows)
    random = StepRandom(0, 0, len(rows))
    silent = task.build()
    for parameter in silent.head.parameters():
        torch.nn.init.zeros_(parameter)
    loss = task.loss(silent, task.batch(rows, random), random)["loss"]
    assert float(loss.detach()) == pytest.approx(float(bank.std.square().mean()), rel=1e-3)
    assert 0.2 < fitted["explained"] < 1
