"""The gate's decisions on scores that leave no doubt, each rule by itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from corgi_core.errors import CorgiError
from corgi_core.evaluation.paired import CaptionScores
from corgi_core.evaluation.promotion import (
    Candidate,
    Verdict,
    baselines_for,
    decide,
    validation_scores,
)
from corgi_core.evaluation.report import LINEAR, LINEAR_PRIOR, SCORES, UNTRAINED, Evaluation
from tests.helpers.protocols import a_protocol

N = 300
NOISE = np.random.default_rng(0).normal(0, 0.1, (20, N))
HARDNESS = np.random.default_rng(1).normal(0, 0.2, N)  # of a caption, for every model


def scores(cosine: float, rank: int = 3, seed: int = 0, **protocol: str) -> CaptionScores:
    """About that cosine, and that rank for all captions."""
    keys = [f"key{n:03}" for n in range(N)]
    noise = NOISE[seed] - NOISE[seed].mean()
    frame = pd.DataFrame({"key": keys, "cosine": cosine + HARDNESS + 0.1 * noise, "rank": rank})
    return CaptionScores(frame, a_protocol(**protocol).on_validation(N))


def model(name: str, cosine: float, rank: int = 3, seed: int = 0, **protocol: str) -> Candidate:
    return Candidate(name, f"digest of {name}", scores(cosine, rank, seed, **protocol))


CHAMPION = model("champion", 0.50)
POOR = {"CLIP text embedding": scores(0.1, rank=9)}


def test_a_challenger_that_is_better_beyond_the_interval_is_promoted() -> None:
    decision = decide([model("new", 0.51, seed=1)], CHAMPION, POOR)
    assert decision.verdict is Verdict.PROMOTED
    cosine = decision.differences[0]
    half = 1.96 * 0.1 * np.std(NOISE[1] - NOISE[0]) / np.sqrt(N)  # the normal interval
    assert (cosine.low, cosine.high) == pytest.approx((0.01 - half, 0.01 + half), abs=0.1 * half)
    assert (cosine.a - HARDNESS.mean(), cosine.b - HARDNESS.mean()) == pytest.approx((0.5, 0.51))
    assert decision.reason.startswith("better: cosine ")
    assert decision.protocol == CHAMPION.scores.protocol.digest  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("challenger", "reason"),
    [
        (model("new", 0.5005, seed=1), "not better beyond the interval: cosine"),
        (model("new", 0.48, seed=1), "worse: cosine"),
        (model("new", 0.52, rank=7, seed=1), "but worse in recall at 5 0.0000 against 1.0000"),
        (Candidate("new", "d", None), "new has no validation scores"),
    ],
)
def test_another_challenger_leaves_the_champion(challenger: Candidate, reason: str) -> None:
    decision = decide([challenger], CHAMPION, POOR)
    assert decision.verdict is Verdict.REFUSED
    assert reason in decision.reason
    assert decision.champion == "champion"


def test_a_champion_without_scores_under_the_protocol_is_not_replaced() -> None:
    decision = decide([model("new", 0.9)], Candidate("old", "d", None), POOR)
    assert decision.verdict is Verdict.REFUSED
    assert "the champion old has no validation scores" in decision.reason
    with pytest.raises(CorgiError, match="different protocols: data_version"):
        decide([model("new", 0.9)], model("old", 0.1, data_version="another"), {})


def test_a_baseline_dominates_only_where_it_is_better_in_every_score() -> None:
    new = [model("new", 0.55, rank=3, seed=1)]
    better_in_all, better_in_two = scores(0.60, rank=1, seed=2), scores(0.60, rank=3, seed=2)
    refused = decide(new, CHAMPION, {LINEAR_PRIOR: better_in_all})
    # rank 3 is in the best five, so recall at 5 is the same: in that it is not better
    assert refused.baselines == {LINEAR_PRIOR: ("cosine", "recall_at_1")}
    assert refused.verdict is Verdict.PROMOTED
    worst = [model("new", 0.55, rank=7, seed=1)]
    champion = model("champion", 0.5, rank=7)
    dominated = decide(worst, CHAMPION, {LINEAR_PRIOR: better_in_all})
    assert dominated.verdict is Verdict.REFUSED
    assert dominated.reason.startswith(f"the baseline {LINEAR_PRIOR} is better in cosine, recall")
    assert decide(worst, champion, {LINEAR_PRIOR: better_in_two}).verdict is Verdict.PROMOTED


DOMINATING = {LINEAR_PRIOR: scores(0.60, rank=1, seed=2)}  # whom rank 7 or more does not reach


def test_a_dominated_champion_is_replaced_by_a_better_one_even_if_that_is_dominated_too() -> None:
    poor = model("poor", 0.50, rank=9)
    better = decide([model("new", 0.51, rank=9, seed=1)], poor, DOMINATING)
    assert better.verdict is Verdict.PROMOTED
    assert better.reason.endswith(f"the baseline {LINEAR_PRIOR} is better than both in every score")
    assert better.champion_baselines == better.baselines
    assert set(better.numbers["champion_baselines"][LINEAR_PRIOR]) == set(SCORES)
    assert decide([model("new", 0.49, rank=9, seed=1)], poor, DOMINATING).verdict is Verdict.REFUSED
    refused = decide([model("new", 0.55, rank=7, seed=1)], model("good", 0.3, rank=1), DOMINATING)
    assert refused.reason.startswith(f"the baseline {LINEAR_PRIOR} is better in cosine")


@pytest.mark.parametrize("cosine", [0.48, 0.50, 0.52])
def test_a_dominated_champion_yields_to_one_that_is_not_and_is_better_in_any_score(
    cosine: float,
) -> None:
    poor, new = model("poor", 0.50, rank=9), model("new", cosine, rank=3, seed=1)
    decision = decide([new], poor, DOMINATING)
    assert decision.verdict is Verdict.PROMOTED
    assert "no baseline dominates it" in decision.reason
    score = "cosine 0." if cosine > 0.5 else "recall at 5 1.0000 against 0.0000"
    assert score in decision.reason
    assert (set(decision.baselines[LINEAR_PRIOR]), decision.champion_baselines) == (
        {"cosine", "recall_at_1"}, {LINEAR_PRIOR: SCORES},
    )  # fmt: skip


def test_a_challenger_that_is_better_in_nothing_replaces_no_dominated_champion() -> None:
    """None dominates it only because its cosines vary more."""
    baseline = {LINEAR_PRIOR: scores(0.50, rank=1)}
    flat, wild = scores(0.48, rank=9).captions, scores(0.47, rank=9).captions
    wild = wild.assign(cosine=wild["cosine"] + 5 * (NOISE[4] - NOISE[4].mean()))
    protocol = scores(0).protocol
    champion = Candidate("flat", "flat", CaptionScores(flat, protocol))
    new = Candidate("wild", "wild", CaptionScores(wild, protocol))
    decision = decide([new], champion, baseline)
    assert "cosine" not in decision.baselines[LINEAR_PRIOR]
    assert decision.champion_baselines == {LINEAR_PRIOR: SCORES}
    assert decision.verdict is Verdict.REFUSED


def test_the_challenger_is_the_best_of_those_that_no_baseline_dominates() -> None:
    few = [model("high", 0.55, rank=9, seed=1), model("worth it", 0.52, rank=3, seed=3)]
    for champion in (None, CHAMPION):
        decision = decide(few, champion, DOMINATING)
        assert (decision.verdict, decision.challenger) == (Verdict.PROMOTED, "worth it")
    alone = decide(few[:1], None, DOMINATING)
    assert (alone.verdict, alone.challenger) == (Verdict.PROMOTED, "high")
    assert "it is the best candidate: cosine" in alone.reason
    assert f"baseline {LINEAR_PRIOR} is better in cosine, recall at 1 and recall" in alone.reason


def test_the_first_champion_is_the_best_candidate_and_says_which_baseline_is_better() -> None:
    few = [model("a", 0.40, seed=1), model("b", 0.45, seed=2), Candidate("c", "d", None)]
    decision = decide(few, None, {LINEAR_PRIOR: scores(0.6, rank=1, seed=3)})
    assert (decision.verdict, decision.challenger) == (Verdict.PROMOTED, "b")
    assert f"baseline {LINEAR_PRIOR} is better in cosine and recall at 1" in decision.reason
    assert decision.reason.startswith("there was no champion")


def test_a_failed_check_stops_even_the_first() -> None:
    decision = decide([model("new", 0.9)], None, {}, "the check manifest has not passed")
    assert decision.verdict is Verdict.REFUSED
    assert decision.reason == "the check manifest has not passed"


def test_the_best_of_many_must_be_better_by_more() -> None:
    """Whoever is the best of ten on these captions looks better by chance."""
    new = model("new", 0.502, seed=1)
    others = [model(f"poor {n}", 0.2, seed=2 + n) for n in range(9)]
    alone, among_ten = (decide([new, *more], CHAMPION, {}) for more in ([], others))
    assert (alone.verdict, among_ten.verdict) == (Verdict.PROMOTED, Verdict.REFUSED)
    assert among_ten.challenger == "new"
    assert "intervals of 99.5 %, as it is the best of 10" in among_ten.reason
    ends = [(d.differences[0].low, d.differences[0].high) for d in (alone, among_ten)]
    assert ends[1][0] < 0 < ends[0][0] < ends[0][1] < ends[1][1]


def test_maps_of_all_captions_are_baselines_of_priors_of_all_captions_alone() -> None:
    rows = [
        scores(0.4, seed=n).captions.assign(model=name)
        for n, name in enumerate(("one", *UNTRAINED, *LINEAR))
    ]
    evaluation = Evaluation(
        {"protocol": a_protocol(near_images=2).stored}, validation=pd.concat(rows)
    )
    found = validation_scores(evaluation, "one")
    assert found is not None
    pd.testing.assert_frame_equal(found.captions, scores(0.4).captions)
    assert found.protocol.digest == scores(0.4).protocol.digest != a_protocol().digest
    assert validation_scores(evaluation, "two") is None
    assert tuple(baselines_for(evaluation, all_captions=False)) == UNTRAINED
    assert tuple(baselines_for(evaluation, all_captions=True)) == (*UNTRAINED, *LINEAR)
    assert validation_scores(Evaluation(evaluation.metrics), "one") is None
