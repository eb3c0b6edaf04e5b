"""Means over seeds and their intervals, against scipy's own test."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from corgi_core.experiments.intervals import mean_and_half_width, over_seeds, paired


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_intervals_are_students(n):
    values = np.random.default_rng(n).normal(5, 2, n)
    mean, half = mean_and_half_width(values)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean - half == pytest.approx(theirs.low)
    assert mean + half == pytest.approx(theirs.high)


def test_three_seeds_by_hand():
    mean, half = mean_and_half_width([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)  # t_{0.975, 2}, from any table


def test_one_seed_has_no_interval():
    mean, half = mean_and_half_width([1.5])
    assert mean == 1.5
    assert np.isnan(half)


def test_it_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    found = [mean_and_half_width(random.normal(0, 1, 3)) for _ in range(4000)]
    assert np.mean([abs(mean) <= half for mean, half in found]) == pytest.approx(0.95, abs=0.012)


def rows(start, values, steps=4):
    return [
        {"start": start, "steps": steps, "seed": seed, "cosine": v} for seed, v in enumerate(values)
    ]


def test_groups_are_summarised_apart_and_missing_values_left_out():
    frame = pd.DataFrame(rows("a", [1, 2, 3]) + rows("b", [5, 5, 5]) + rows("c", [None] * 3))
    summary = over_seeds(frame, ["start"], "cosine")
    assert summary["start"].tolist() == ["a", "b"]
    assert summary["mean"].tolist() == [2, 5]
    assert summary["half"].tolist() == pytest.approx([2.484, 0], abs=1e-3)


def test_rows_of_no_group_are_left_out():
    nowhere = rows(None, [1, 2, 3]) + rows("a", [1, 2, 3], steps=float("nan"))
    frame = pd.DataFrame(rows("a", [1, 2, 3]) + nowhere)
    for found in (
        over_seeds(frame, ["start", "steps"], "cosine"),
        paired(frame, frame, ["start", "steps"], "cosine"),
    ):
        assert found[["start", "steps"]].to_numpy().tolist() == [["a", 4]]


def test_a_seed_that_is_there_twice_is_a_defect():
    frame = pd.DataFrame(rows("a", [1, 2]) + rows("a", [1, 2]))
    with pytest.raises(AssertionError, match="several rows of one seed"):
        over_seeds(frame, ["start"], "cosine")


def test_paired_differences_are_of_the_same_seed():
    """Two arms that differ by exactly 0.1 in every seed, however far the seeds lie apart."""
    one, other = rows("a", [0.1, 5.1, 9.1]), rows("b", [9.0, 0.0, 5.0])
    for row, seed in zip(other, (2, 0, 1), strict=True):
        row["seed"] = seed
    summary = paired(pd.DataFrame(one), pd.DataFrame(other), ["steps"], "cosine")
    assert summary["mean"].item() == pytest.approx(0.1)
    assert summary["half"].item() == pytest.approx(0, abs=1e-9)
