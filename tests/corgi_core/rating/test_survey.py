"""All raters are asked the same questions, each in an order of their own that a reload repeats."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from corgi_core.errors import CorgiError
from corgi_core.rating.survey import Survey
from tests.helpers.surveys import small_suite

THREE = ["gan", "ours", "sd"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_suite(tmp_path_factory.mktemp("suite"), THREE)


def test_a_raters_order_is_their_own_and_stays(folder) -> None:
    survey = Survey.of(folder, [], None, 30)
    assert survey.kind == "ranking"
    again = Survey.from_json(survey.to_json())
    assert (again, again.digest) == (survey, survey.digest)
    first, second = survey.slots("rater-1"), survey.slots("rater-2")
    assert first == again.slots("rater-1")
    asked = [{slot.question for slot in slots} for slots in (first, second)]
    assert asked[0] == asked[1] == set(survey.questions)
    assert [s.question for s in first] != [s.question for s in second]
    sides = Counter(slot.models[0] for slot in survey.slots("rater-3") + first + second)
    assert min(sides.values()) > len(first) / 2  # about a third each
    other = Survey.of(folder, [], None, 30)
    assert other.slots("rater-1") != first  # of another secret


def test_ten_of_thirty_votes_repeat_an_earlier_question_the_other_way_round(folder) -> None:
    for rater in map(str, range(20)):
        slots = Survey.of(folder, ["ours", "sd"], None, 60).slots(rater)
        assert [slot.number for slot in slots] == list(range(70))
        again = [slot for slot in slots if slot.repeats is not None]
        assert [slot.number for slot in again] == list(range(10, 30, 2))
        assert len({slot.repeats for slot in again}) == 10
        for slot in again:
            first = slots[slot.repeats]
            assert (first.question, first.models[::-1]) == (slot.question, slot.models)
            assert slot.number - first.number >= 5
            assert first.repeats is None


def test_questions_come_from_all_categories_prompts_and_pairs_in_turn(folder) -> None:
    survey = Survey.of(folder, [], "pairs", 60)
    assert len(set(survey.questions)) == 60
    assert Counter(q.models for q in survey.questions[:30]) == {
        ("gan", "ours"): 10, ("gan", "sd"): 10, ("ours", "sd"): 10,
    }  # fmt: skip
    assert len({q.prompt for q in survey.questions[:40]}) == 40
    assert Counter(q.prompt % 2 for q in survey.questions[:10]) == {0: 5, 1: 5}
    every = Survey.of(folder, [], "pairs", 10_000).questions
    assert len(every) == len(set(every)) == 40 * 3 * 2


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (["ours"], "1 models cannot be compared"),
        (["ours", "ours"], "1 models cannot be compared"),
        (["ours", "dalle"], "no pictures of dalle"),
    ],
)
def test_other_than_two_to_four_models_are_refused(folder, models, said) -> None:
    with pytest.raises(CorgiError, match=said):
        Survey.of(folder, models, None, 10)


def test_pictures_without_a_partner_are_not_asked_for(tmp_path: Path) -> None:
    folder = small_suite(tmp_path, ["ours", "sd"], prompts=2)
    folder.picture("sd", 1, 0).unlink()
    asked = Survey.of(folder, [], None, 10).questions
    assert {(q.prompt, q.seed) for q in asked} == {(1, 1), (2, 0), (2, 1)}
    for number in (1, 2):
        for seed in (0, 1):
            folder.picture("sd", number, seed).unlink(missing_ok=True)
    with pytest.raises(CorgiError, match="no picture of the same prompt"):
        Survey.of(folder, [], None, 10)
