"""What is measured of samples, against closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corgi_core.errors import CorgiError
from corgi_core.evaluation.derangement import derangement
from corgi_core.experiments.prior_ablation.scores import Scorer
from corgi_core.metrics.spread import spread


@given(n=st.integers(2, 300), seed=st.integers(0, 100))
def test_nothing_stays_at_its_index(n, seed):
    order = derangement(n, seed)
    assert order.sort().values.tolist() == list(range(n))
    assert not (order == torch.arange(n)).any()
    assert torch.equal(order, derangement(n, seed))


@pytest.mark.parametrize("count", [2, 8])
def test_a_calibrated_sampler_has_spread_one(count):
    """Truth and samples from one Gaussian a caption, whose variance is known: 0.25."""
    random = torch.Generator().manual_seed(count)
    means = 3 * torch.randn(4000, 16, generator=random)
    real = means + 0.5 * torch.randn(4000, 16, generator=random)
    samples = means + 0.5 * torch.randn(count, 4000, 16, generator=random)
    found = spread(samples, real)
    assert found["spread"] == pytest.approx(1, abs=0.02)
    assert found["variance"] == pytest.approx(0.25, rel=0.02)


def test_a_sampler_with_one_answer_has_none():
    real = torch.randn(50, 4)
    assert spread(torch.zeros(8, 50, 4), real) == {"variance": 0, "spread": 0}


def test_a_sampler_that_is_half_as_wide_has_less_than_a_third_of_it():
    random = torch.Generator().manual_seed(0)
    real = torch.randn(4000, 16, generator=random)
    samples = 0.5 * torch.randn(8, 4000, 16, generator=random)
    # ‖z_0 − z̄‖² is 1 + 0.25/8, of which a calibrated one would have 9/8 of its variance
    assert spread(samples, real)["spread"] == pytest.approx(
        0.25 / ((1 + 0.25 / 8) * 8 / 9), rel=0.03
    )


def test_one_sample_has_no_spread():
    with pytest.raises(CorgiError, match="spread_samples"):
        spread(torch.zeros(1, 5, 4), torch.zeros(5, 4))


@pytest.fixture
def scorer():
    real = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    return Scorer(real, encoder_dims=(4, 8))


def test_the_truth_is_found_and_its_control_is_not(scorer):
    found = scorer.scores(scorer.real)
    assert found["cosine"] == pytest.approx(1)
    assert found["recall_at_1"] == found["recall_at_5"] == 1
    assert found["frechet"] == pytest.approx(0, abs=1e-6)
    assert abs(found["shuffled_cosine"]) < 0.1


def test_a_prior_that_ignores_its_text_does_not_look_good():
    """On embeddings around a common mean, that mean has a high cosine: as high when shuffled."""
    real = 2 + torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    found = Scorer(real, encoder_dims=(4, 8)).scores(real.mean(dim=0).expand(200, 12))
    assert found["cosine"] > 0.8
    assert found["cosine"] == pytest.approx(found["shuffled_cosine"], abs=1e-5)
    assert found["recall_at_5"] == pytest.approx(5 / 200)
    assert found["frechet"] > 0.1


def test_too_few_held_out_images_are_refused():
    with pytest.raises(CorgiError, match="too few"):
        Scorer(torch.ones(1, 12), encoder_dims=(12,))
