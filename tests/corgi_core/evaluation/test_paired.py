"""Differences of models on the same captions: their intervals, and what is not comparable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from corgi_core.errors import CorgiError
from corgi_core.evaluation.paired import CaptionScores, difference_chart, differences
from corgi_core.evaluation.protocol import Protocol

N = 400
NAMES = ("a", "b")
PROTOCOL = Protocol(
    dataset="made", data_version="abc", held_out_captions=N, prior_steps=16, prior_sampler="ddpm",
    prior_guidance=1.0, seed=0, encoders=("a",), clip="def",
)  # fmt: skip


def scored(cosines: np.ndarray, ranks: np.ndarray | None = None, **protocol: Any) -> CaptionScores:
    keys = [f"key{n:03}" for n in range(len(cosines))]
    rank = np.ones(len(cosines), int) if ranks is None else ranks
    frame = pd.DataFrame({"key": keys, "cosine": cosines, "rank": rank})
    return CaptionScores(frame, replace(PROTOCOL, **protocol))


@pytest.fixture
def hardness() -> np.ndarray:
    """How hard each caption is, for every model."""
    return np.random.default_rng(0).normal(0, 0.3, N)


def test_the_interval_is_that_of_the_differences_and_not_of_the_models(
    hardness: np.ndarray,
) -> None:
    """Against the normal interval, which is exact for so many captions but for 10 %."""
    steps = np.random.default_rng(1).normal(0.02, 0.05, N)
    cosine, *_ = differences({0: scored(hardness)}, {0: scored(hardness + steps)}, NAMES)
    half = 1.96 * steps.std() / np.sqrt(N)
    assert cosine.value == pytest.approx(steps.mean())
    assert cosine.low == pytest.approx(steps.mean() - half, abs=0.1 * half)
    assert cosine.high == pytest.approx(steps.mean() + half, abs=0.1 * half)
    assert half < 0.2 * 1.96 * hardness.std() / np.sqrt(N)  # either model's own is far wider


def test_recalls_are_shares_of_ranks(hardness: np.ndarray) -> None:
    ranks = np.where(np.arange(N) < 100, 1, 5)
    found = differences({0: scored(hardness, ranks)}, {0: scored(hardness)}, NAMES)
    values = {each.score: (each.a, each.b) for each in found}
    assert values["recall_at_1"] == (0.25, 1.0)
    assert values["recall_at_5"] == (1.0, 1.0)


def test_captions_near_training_and_far_from_it_have_differences_of_their_own(
    hardness: np.ndarray,
) -> None:
    """A model that is better on the near ones alone."""
    near = np.arange(N) % 4 == 0
    a, b = (
        CaptionScores(each.captions.assign(near=near), each.protocol)
        for each in (scored(hardness), scored(hardness + np.where(near, 0.1, 0.0)))
    )
    found = {each.score: each for each in differences({0: a}, {0: b}, NAMES)}
    assert [name for name in found if name.startswith("cosine")] == [
        "cosine", "cosine_near", "cosine_far"
    ]  # fmt: skip
    gains = [found[name].value for name in ("cosine", "cosine_near", "cosine_far")]
    assert gains == pytest.approx([0.025, 0.1, 0])
    assert found["cosine_near"].a == pytest.approx(hardness[near].mean())
    assert difference_chart({"b": list(found.values())}, "a").height > 300
    few = CaptionScores(a.captions.assign(near=np.arange(N) == 0), a.protocol)
    alone = {each.score for each in differences({0: few}, {0: few}, NAMES)}
    assert {"cosine", "cosine_far"} < alone
    assert "cosine_near" not in alone  # one caption has no interval


def test_seeds_that_disagree_widen_the_interval_and_paired_seeds_do_not(
    hardness: np.ndarray,
) -> None:
    def model(*shifts: float) -> dict[int, CaptionScores]:
        return {seed: scored(hardness + shift) for seed, shift in enumerate(shifts)}

    def width(a: dict[int, CaptionScores], b: dict[int, CaptionScores]) -> float:
        cosine, *_ = differences(a, b, NAMES)
        assert cosine.value == pytest.approx(0.1)
        return cosine.high - cosine.low

    assert width(model(0.0), model(0.1)) == pytest.approx(0, abs=1e-9)
    # the mean of two of the shifts -0.1 and 0.1, each as likely: -0.1, 0 or 0.1
    assert width(model(0.0), model(0.0, 0.2)) == pytest.approx(0.2, abs=1e-6)
    assert width(model(-0.1, 0.1), model(0.0, 0.2)) == pytest.approx(0, abs=1e-9)


def test_another_protocol_is_refused_by_the_field_that_differs(hardness: np.ndarray) -> None:
    with pytest.raises(CorgiError, match=r"a and b: .* prior_guidance is 1.0 in one and 2.0 in"):
        differences({0: scored(hardness)}, {0: scored(hardness, prior_guidance=2.0)}, NAMES)


def test_other_captions_are_refused(hardness: np.ndarray) -> None:
    with pytest.raises(CorgiError, match="different captions"):
        differences({0: scored(hardness)}, {0: scored(hardness[:-1])}, NAMES)


def test_what_is_saved_is_loaded(hardness: np.ndarray, tmp_path: Path) -> None:
    """Without the decoder's part of the protocol, so that priors of other decoders compare."""
    scores, decoded = scored(hardness), scored(hardness + 0.1, decoder_steps=50, image_size=64)
    for each, name in ((scores, "made"), (decoded, "decoded")):
        each.save(tmp_path / name)
    loaded, other = (CaptionScores.load(tmp_path / name) for name in ("made", "decoded"))
    pd.testing.assert_frame_equal(loaded.captions, scores.captions)
    assert other.protocol == loaded.protocol == scores.protocol.without_pictures
    assert differences({0: loaded}, {0: other}, NAMES)[0].value == pytest.approx(0.1)


def test_the_chart_has_a_panel_for_each_score(hardness: np.ndarray) -> None:
    found = differences({0: scored(hardness)}, {0: scored(hardness + 0.1)}, NAMES)
    one, two = (difference_chart(dict.fromkeys(names, found), "a") for names in ("b", "bc"))
    assert one.width == two.width
    assert one.height < two.height
