"""The bootstrap's intervals, against the binomial distribution and scipy's bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from corgi_core.metrics.bootstrap import bootstrap_intervals, middle, resamples, with_intervals


def test_the_interval_of_a_share_is_the_binomials() -> None:
    """Resampled, a share of n is exactly binomial."""
    n, p = 400, 0.3
    low, high = bootstrap_intervals((np.arange(n) < p * n)[:, None])[:, 0]
    expected = stats.binom.ppf([0.025, 0.975], n, p) / n
    assert [low, high] == pytest.approx(expected, abs=0.006)  # 2.6 standard errors of a quantile


def test_the_intervals_are_those_of_scipys_bootstrap() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=300)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    found = with_intervals({"cosine": values})
    assert found["cosine"] == pytest.approx(values.mean())
    assert found["cosine_ci_low"] == pytest.approx(expected.low, abs=0.02)
    assert found["cosine_ci_high"] == pytest.approx(expected.high, abs=0.02)


def test_the_interval_covers_the_mean_of_the_population_95_times_in_100() -> None:
    values = np.random.default_rng(3).normal(size=(200, 500))  # 500 scores of 200 captions
    low, high = bootstrap_intervals(values)
    assert 0.91 < ((low < 0) & (high > 0)).mean() < 0.98


@pytest.mark.parametrize("candidates", [1, 5, 6, 100, 1000])
def test_intervals_are_wide_enough_for_the_best_of_many_candidates(candidates: int) -> None:
    """2,000 resamples have no quantile at 1/40,000; the mean of 200 captions is about normal."""
    values = np.random.default_rng(6).normal(size=(200, 300))
    tail = 0.025 / candidates
    low, high = middle([weights @ values for weights in resamples(200, 0)], 1 - 2 * tail)
    width = 2 * stats.norm.isf(tail) * values.std(axis=0) / 200**0.5
    assert ((high - low) / width).mean() == pytest.approx(1, abs=0.02)


def test_of_a_skewed_score_the_far_ends_are_skewed_too() -> None:
    hits = (np.arange(60) < 3)[:, None].astype(float)  # recall of few captions
    low, high = middle([weights @ hits for weights in resamples(60, 0)], 0.9995)[:, 0]
    assert high - 0.05 > 1.5 * (0.05 - low)


def test_captions_are_resampled_in_pairs() -> None:
    """Two models on the same captions: a constant difference has an interval of no width."""
    scores = np.random.default_rng(4).normal(size=50)
    low, high = bootstrap_intervals(np.stack([scores, scores - 0.25], axis=1))
    assert low[0] - low[1] == pytest.approx(0.25)
    assert high[0] - high[1] == pytest.approx(0.25)
    assert bootstrap_intervals((scores - (scores - 0.25))[:, None])[:, 0] == pytest.approx(0.25)


def test_the_seed_alone_decides_the_resamples_and_one_caption_has_none() -> None:
    values = np.random.default_rng(5).normal(size=(40, 1))
    assert (bootstrap_intervals(values, 7) == bootstrap_intervals(values, 7)).all()
    assert (bootstrap_intervals(values, 7) != bootstrap_intervals(values, 8)).all()
    assert with_intervals({"cosine": np.array([0.5])}) == {"cosine": 0.5}
