"""Statistics of votes against closed forms, published examples and simulated raters."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest

from corgi_core.errors import CorgiError
from corgi_core.metrics.ratings.agreement import krippendorff_alpha
from corgi_core.metrics.ratings.bradley_terry import bradley_terry
from corgi_core.metrics.ratings.random_raters import (
    ENOUGH,
    RaterVotes,
    Verdict,
    judged,
    preferences,
    shares,
)
from corgi_core.metrics.ratings.win_rates import wilson

# Krippendorff's example of four observers and twelve units, with his values.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, np.nan, np.nan, np.nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, np.nan, 3],
        [np.nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, np.nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, np.nan],
    ]
).T


@pytest.mark.parametrize(("x", "n"), [(0, 5), (7, 7), (1, 1), (33, 100), (412, 1000)])
def test_wilsons_interval_is_scipys(x: int, n: int) -> None:
    interval = binomtest(x, n).proportion_ci(method="wilson")
    assert wilson(x, n) == pytest.approx((x / n, interval.low, interval.high), abs=1e-12)


def test_no_votes_have_no_share() -> None:
    with pytest.raises(CorgiError, match="0 of 0 votes"):
        wilson(0, 0)


def test_alpha_is_the_published_value() -> None:
    assert krippendorff_alpha(PUBLISHED) == pytest.approx(0.849, abs=5e-4)


def test_alpha_of_chance_is_zero_and_of_nothing_unknown() -> None:
    clicks = np.random.default_rng(0).integers(-1, 2, (4000, 3)).astype(float)
    assert abs(krippendorff_alpha(clicks)) < 0.03
    assert math.isnan(krippendorff_alpha(np.array([[1.0, np.nan], [np.nan, 0.0]])))
    assert math.isnan(krippendorff_alpha(np.ones((3, 2))))


def test_two_models_strengths_are_the_log_odds() -> None:
    votes = np.array([[[0, 3], [1, 0]], [[0, 4.5], [2.5, 0]]])
    first, second = bradley_terry(votes).values
    assert first - second == pytest.approx(math.log((7.5 + 0.5) / (3.5 + 0.5)), abs=1e-7)
    assert first + second == pytest.approx(0, abs=1e-9)


def test_a_model_that_always_wins_has_no_interval() -> None:
    found = bradley_terry(np.tile([[0.0, 1.0], [0.0, 0.0]], (30, 1, 1)))
    assert found.values[0] - found.values[1] == pytest.approx(math.log(30.5 / 0.5), abs=1e-6)
    assert np.isnan([found.low, found.high]).all()


def test_strengths_maximise_the_likelihood() -> None:
    wins = np.array([[0, 12, 5, 9], [4, 0, 7, 6], [2, 1, 0, 3], [8, 2, 5, 0.0]])
    with_ties = wins + (wins + wins.T > 0) / 2

    def loss(theta: np.ndarray) -> float:
        return float((with_ties * np.log1p(np.exp(theta - theta[:, None]))).sum())

    best = minimize(loss, np.zeros(4), tol=1e-10).x
    np.testing.assert_allclose(bradley_terry(wins[None]).values, best - best.mean(), atol=1e-4)


def test_intervals_cover_the_truth_and_prompts_are_resampled() -> None:
    random, truth, covered = np.random.default_rng(1), math.log(3), 0
    for _ in range(20):
        won = random.random(60) < 0.75
        wins = np.zeros((60, 2, 2))
        wins[:, 0, 1], wins[:, 1, 0] = won, ~won
        strengths = bradley_terry(wins)
        covered += strengths.low[0] <= truth / 2 <= strengths.high[0]
    assert covered >= 17  # 19 expected
    once, five = bradley_terry(wins), bradley_terry(wins * 5)  # five equal votes on each prompt
    assert np.ptp([five.low[0], five.high[0]]) > 0.9 * np.ptp([once.low[0], once.high[0]])


def test_models_that_were_never_compared_are_named_as_such() -> None:
    wins = np.zeros((1, 4, 4))
    wins[0, 0, 1] = wins[0, 2, 3] = 1
    with pytest.raises(CorgiError, match="never compared"):
        bradley_terry(wins)


# Simulated raters: 30 votes, of which ten repeat an earlier question with its sides exchanged.

REPEATED = [-1] * 10 + [0, -1, 2, -1, 3, -1, 5, -1, 6, -1, 8, -1, 9, -1, 11, -1, 13, -1, 15, -1]
QUESTION = np.array([i if first < 0 else first for i, first in enumerate(REPEATED)])


def truths(random: np.random.Generator, favourite: float = 0.5) -> np.ndarray:
    """What most people think of two models' pictures, by question and aspect: −1, 0 or 1."""
    odds = [0.8 * (1 - favourite), 0.2, 0.8 * favourite]
    return random.choice([-1, 0, 1], p=odds, size=(ENOUGH, 2))[QUESTION]


def honest(random: np.random.Generator, truth: np.ndarray, reliable: float = 0.8) -> np.ndarray:
    """What one who looks prefers: mostly what others do, else anything."""
    chance = random.choice([-1, 0, 1], size=truth.shape)
    return np.where(random.random(truth.shape) < reliable, truth, chance)


def verdict(
    random: np.random.Generator,
    preferred: np.ndarray | None,
    others: list[np.ndarray],
    clicks: np.ndarray | None = None,
    seconds: float = 4.0,
) -> Verdict:
    """The verdict on preferences between models, or on clicks by position."""
    order = np.array([[0, 1] if random.random() < 0.5 else [1, 0] for _ in range(ENOUGH)])
    for i, first in enumerate(REPEATED):
        if first >= 0:
            order[i] = order[first][::-1]
    if clicks is None:
        assert preferred is not None
        clicks = preferred * np.where(order[:, :1] == 0, 1, -1)
    ranks = np.stack([1 + (clicks < 0), 1 + (clicks > 0)], axis=-1)
    return judged(
        RaterVotes(
            ranks, order, np.array(REPEATED),
            shares([each[:, :, None] for each in others], (ENOUGH, 2, 1)),
            np.full(ENOUGH, seconds),
        ),
        seed=int(random.integers(1 << 30)),
    )  # fmt: skip


def flagged_share(kind: str, crowd: int, runs: int = 40, **options: float) -> float:
    """How many of such raters among `crowd` honest others are flagged after 30 votes."""
    random, flagged = np.random.default_rng(0), 0
    for _ in range(runs):
        truth = truths(random, options.get("favourite", 0.5))
        others = [honest(random, truth) for _ in range(crowd)]
        if kind == "honest":
            found = verdict(random, honest(random, truth, options.get("reliable", 0.8)), others)
        else:
            clicks = {
                "random": random.integers(-1, 2, truth.shape),
                "left": np.ones(truth.shape, dtype=int),
                "same": np.zeros(truth.shape, dtype=int),
                "mostly left": random.choice([-1, 1], p=[0.2, 0.8], size=truth.shape),
            }[kind]
            found = verdict(random, None, others, clicks)
        flagged += found.reason is not None
    return flagged / runs


@pytest.mark.parametrize("kind", ["random", "left", "same", "mostly left"])
@pytest.mark.parametrize("crowd", [0, 3])
def test_who_does_not_look_is_flagged_within_30_votes(kind: str, crowd: int) -> None:
    assert flagged_share(kind, crowd) >= 0.95  # 0.98 is expected, at least


def test_who_looks_is_rarely_flagged() -> None:
    """The false alarms, of raters who answer as most people do 87 % of the time, or 67 %."""
    assert flagged_share("honest", crowd=3, runs=25) == 0
    assert flagged_share("honest", crowd=3, reliable=0.5) <= 0.05
    assert (
        flagged_share("honest", crowd=0, runs=80) <= 0.1
    )  # who is alone repeats 76 % of the answers
    assert flagged_share("honest", crowd=3, runs=25, favourite=1.0) == 0  # all prefer one model


def test_who_is_too_quick_is_flagged_and_who_has_few_votes_is_not() -> None:
    random = np.random.default_rng(0)
    truth = truths(random)
    assert "less than 1 s" in str(verdict(random, truth, [truth], seconds=0.5).reason)
    votes = RaterVotes(
        np.ones((29, 2, 2), dtype=int), np.tile([0, 1], (29, 1)), np.full(29, -1),
        shares([], (29, 2, 1)), np.full(29, 0.1),
    )  # fmt: skip
    assert judged(votes) == Verdict(29, 1.0, 1.0, None)


def test_preferences_are_between_models_wherever_they_stood() -> None:
    ranks = np.array([[[3, 1, 2]], [[1, 1, 2]]])  # by position
    order = np.array([[2, 0, 1], [1, 0, 2]])
    found = preferences(ranks, order)  # pairs (0, 1), (0, 2), (1, 2)
    assert found.tolist() == [[[1, 1, 1]], [[0, 1, 1]]]
