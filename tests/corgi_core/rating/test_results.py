"""Votes become rates, strengths and agreement; flagged raters and repeats count in none of them."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corgi_core.errors import CorgiError
from corgi_core.metrics.ratings.win_rates import wilson
from corgi_core.rating import report
from corgi_core.rating.results import RatingResults, Row, results_of
from corgi_core.rating.survey import Survey
from corgi_core.rating.votes import Vote
from tests.helpers.surveys import small_store, small_suite

BETTER, SAME, WORSE = (1, 2), (1, 1), (2, 1)


def vote(rater: str, slot: int, alignment, fidelity=SAME, models=("ours", "sd"), **more) -> Vote:
    fixed = {"prompt": slot, "seed": 0, "repeats": None, "seconds": 3.0}
    return Vote(
        rater=rater, slot=slot, models=models, alignment=alignment, fidelity=fidelity,
        **{**fixed, **more},
    )  # fmt: skip


def row(rows: tuple[Row, ...], aspect: str, metric: str, model: str = "ours") -> Row:
    (found,) = (r for r in rows if (r.aspect, r.metric, r.model) == (aspect, metric, model))
    return found


def test_rates_are_of_models_wherever_they_stood() -> None:
    votes = [vote("a", n, BETTER) for n in range(6)]  # ours on the left
    votes += [vote("b", n, WORSE, models=("sd", "ours")) for n in range(3)]  # ours on the right
    votes += [vote("b", n, SAME) for n in range(3, 5)]
    votes += [
        vote("b", 5, WORSE),
        vote("b", 6, WORSE, prompt=0, repeats=0),
    ]  # the last does not count
    rows = results_of(votes).rows
    win, same, loss = (row(rows, "alignment", f"{name} rate") for name in ("win", "same", "loss"))
    assert (win.value, win.low, win.high) == pytest.approx(wilson(9, 12))
    assert (same.value, loss.value) == pytest.approx((2 / 12, 1 / 12))
    assert win.votes == 12
    assert row(rows, "fidelity", "same rate").value == 1
    strengths = [row(rows, "alignment", "strength", model).value for model in ("ours", "sd")]
    assert strengths[0] - strengths[1] == pytest.approx(math.log(10.5 / 2.5), abs=1e-6)


def test_a_ranking_is_votes_between_every_two() -> None:
    order = ("sd", "ours", "gan")
    rows = results_of([vote("a", n, (3, 1, 2), (1, 2, 3), models=order) for n in range(4)]).rows
    wins = {
        (r.model, r.other): r.value
        for r in rows
        if r.metric == "win rate"
        if r.aspect == "alignment"
    }
    assert wins == {("gan", "ours"): 0, ("gan", "sd"): 1, ("ours", "sd"): 1}
    by_strength = sorted(order, key=lambda model: row(rows, "fidelity", "strength", model).value)
    assert by_strength == ["gan", "ours", "sd"]


def test_a_random_clicker_is_flagged_and_counts_in_nothing(tmp_path: Path) -> None:
    """Among two raters who look, on the orders that the page gives them."""
    folder = small_suite(tmp_path, ["ours", "sd"], prompts=30)
    survey = replace(Survey.of(folder, [], None, 20), secret="0" * 32)  # one clicker in 50 is lucky
    random = np.random.default_rng(0)
    truth = {question: random.choice(["ours", "sd"]) for question in survey.questions}

    def votes_of(rater: str, looks: bool) -> list[Vote]:
        votes = []
        for slot in survey.slots(rater):
            better = BETTER if slot.models[0] == truth[slot.question] else WORSE
            answer = [better, better] if looks else [
                (BETTER, SAME, WORSE)[i] for i in random.integers(3, size=2)
            ]  # fmt: skip
            votes.append(
                vote(rater, slot.number, *answer, models=slot.models, repeats=slot.repeats,
                     prompt=slot.question.prompt, seed=slot.question.seed)
            )  # fmt: skip
        return votes

    looking = votes_of("anna-0001", True) + votes_of("berta-001", True)
    clicking = votes_of("clicker-1", False)
    assert len(clicking) == 30
    found = results_of(looking + clicking)
    assert list(found.flagged) == ["clicker-1"]
    assert found.rows == results_of(looking).rows
    assert row(found.rows, "alignment", "agreement", "").value == 1
    with pytest.raises(CorgiError, match="all 1 raters are flagged"):
        results_of(clicking)

    found.save(tmp_path)
    page = (tmp_path / "ratings.md").read_text()
    assert "Votes: 40. Raters: 2." in page
    assert "interval unknown" not in page
    assert "- clicker-1 (30 votes): the answers fit neither" in page
    saved = json.loads((tmp_path / "ratings.json").read_text())
    assert saved["rows"][0]["metric"] == "win rate"
    lines = list(csv.DictReader((tmp_path / "votes.csv").open()))
    assert len(lines) == 90
    assert sum(int(line["counts"]) for line in lines) == 40


def test_no_votes_have_no_results() -> None:
    with pytest.raises(CorgiError, match="nobody has voted"):
        results_of([])


def test_a_suite_whose_raters_are_flagged_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flagged(votes: list[Vote]) -> RatingResults:
        if len(votes) == 1:
            raise CorgiError("all 1 raters are flagged", "ask others")
        return results_of(votes)

    monkeypatch.setattr(report, "results_of", flagged)
    for name, votes in (("looked", 2), ("clicked", 1)):
        _, store = small_store(tmp_path / name, ["ours", "sd"], questions=4)
        for slot in store.survey.slots("rater-0001")[:votes]:
            answers = {"alignment": [1, 2], "fidelity": [1, 2], "seconds": 3}
            key = f"key-{slot.number:06}"
            store.record(key, slot, "rater-0001", answers, store.survey.digest)
    assert list(report.results_in(tmp_path)) == ["looked"]
    assert "the votes on clicked are left out: all 1 raters are flagged" in caplog.text
    (tmp_path / "looked" / "votes.sqlite").unlink()
    with pytest.raises(CorgiError, match="all 1 raters are flagged"):
        report.results_in(tmp_path)
    assert "corgi rate" in report.report_of(report.results_in(tmp_path / "nowhere")).tables["votes"]
