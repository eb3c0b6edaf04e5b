"""Learned sources and sampled modes: each against what is known exactly."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch

from corgi_core.experiments.prior_ablation.arms import Arm, shifted
from corgi_core.experiments.prior_ablation.learned_source import SourceNetwork, SourceTask
from corgi_core.experiments.prior_ablation.measure import measure_arm, train_arm
from corgi_core.experiments.prior_ablation.methods import MODES, SOURCE
from corgi_core.experiments.prior_ablation.modes import CoupledBank, ModesNetwork, ModesPrior
from corgi_core.experiments.prior_ablation.sweeps import Plan, Sampling
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.prior.network import PriorShape
from corgi_core.training.metrics_log import read_metrics
from tests.helpers.small_study import PRESET, small_study

SHAPE = PriorShape(
    embedding_width=12, text_width=6, text_tokens=5, gaussians=3, width=16, layers=1, heads=2
)
STUDIED = replace(
    PRESET,
    study=replace(
        PRESET.study,
        sweeps=("gaussians",),
        training=replace(PRESET.study.training, steps=48, checkpoint_every=48, evaluate_every=48),
    ),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return small_study(tmp_path_factory.mktemp("study"), STUDIED)


def captions(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    tokens = torch.randn(n, 5, 6, generator=random)
    return tokens, torch.ones(n, 5, dtype=torch.bool), torch.randn(n, 12, generator=random)


def bank(k: int) -> GaussianBank:
    random = torch.Generator().manual_seed(1)
    means = torch.randn(k, 12, generator=random)
    return GaussianBank(means, torch.ones(k, 12), torch.ones(k), (4, 8), kappa=1.0)


def test_a_training_caption_starts_from_the_mode_nearest_to_its_image() -> None:
    coupled = CoupledBank.from_state(bank(3).state_dict(), bank(3).config)
    images = coupled.means[[2, 0, 1, 1]] * 1.5
    assert coupled.start(*captions(4), images).c.tolist() == [2, 0, 1, 1]
    text = captions(4)[2]
    assert torch.equal(coupled.start(*captions(4)).c, bank(3).assign(text))


def test_modes_are_sampled_as_often_as_they_are_likely_and_by_the_seed_alone() -> None:
    network = ModesNetwork(SHAPE).eval()
    likely = torch.tensor([0.6, 0.3, 0.1])
    with torch.no_grad():
        network.modes.bias.copy_(likely.log())
    prior = ModesPrior(network, bank(3), PRESET.prior, {}, card={})
    one = [each.expand(4000, *each.shape[1:]) for each in captions(1)]
    modes_of_samples = prior.sampled_modes(*one, 0, range(4000))
    shares = torch.bincount(modes_of_samples, minlength=3) / 4000
    torch.testing.assert_close(shares, likely, atol=0.03, rtol=0)  # four standard errors
    some = [each[:10] for each in one]
    assert torch.equal(prior.sampled_modes(*some, 0, range(50, 60)), modes_of_samples[50:60])
    assert not torch.equal(prior.sampled_modes(*some, 1, range(50, 60)), modes_of_samples[50:60])


def test_p_of_c_given_y_is_learned(study) -> None:
    prior, result = train_arm(study, Arm(shifted(1.0, 2), method=MODES))
    assert isinstance(prior, ModesPrior)
    surprise = [entry["modes"] for entry in read_metrics(result.metrics_log) if "modes" in entry]
    assert surprise[-1] < 0.9 * log(2)  # nats; log 2 by chance
    plan = Plan(Arm(shifted(1.0, 2), method=MODES), (Sampling(3),), (Sampling(3),), False)
    (row,) = measure_arm(study, plan)["samples"]
    assert row["method"] == MODES
    assert row["spread"] > 0


def test_a_source_begins_as_the_fitted_gaussian_and_nears_the_targets(study) -> None:
    fitted = study.fitted[1]
    held_out = study.held_out
    prefix = held_out.batch(torch.arange(len(held_out)))[:3]
    untrained = SourceNetwork(replace(SHAPE, gaussians=1), fitted).source.start(*prefix)
    assert torch.equal(untrained.cond.mean, fitted.means.expand(len(held_out), -1))
    assert torch.equal(untrained.cond.std, fitted.std.expand(len(held_out), -1))

    prior, _ = train_arm(study, Arm(shifted(1.0), method=SOURCE))
    with torch.no_grad():
        start = prior.bank.start(*prefix)
    own = study.scorer.cosine(start.cond.mean)
    assert own > study.scorer.cosine(fitted.means.expand(len(held_out), -1)) + 0.05
    assert torch.equal(start.uncond.mean, untrained.cond.mean)  # a dropped caption tells nothing
    ratio = start.cond.std / fitted.std
    assert 0.5 < float(ratio.mean()) < 1.5  # it has not collapsed


def test_a_source_that_does_not_begin_as_one_gaussian_is_refused(study) -> None:
    task = SourceTask(
        settings=PRESET.prior, images=study.images, texts=study.texts,
        captioned=study.validation_keys, validation_keys=study.validation_keys, bank=bank(3),
    )  # fmt: skip
    with pytest.raises(ValueError, match="one fitted Gaussian"):
        task.build()
    with pytest.raises(ValueError, match="nothing to choose"):
        ModesNetwork(replace(SHAPE, gaussians=1))
