"""The jackknife of parts against closed forms, and against the scores of many sets."""

import numpy as np
import pytest
from scipy import stats

from corgi_core.metrics.frechet import SumsByPart, frechet_distance
from corgi_core.metrics.jackknife import with_jackknife
from corgi_core.metrics.mmd import influences, mmd_by_pair, squared_mmd


def test_the_interval_of_a_mean_is_students():
    """Parts of one value each: the jackknife of a mean is the usual standard error."""
    values = np.random.default_rng(0).normal(size=8)
    left_out = [np.delete(values, n).mean() for n in range(8)]
    found = with_jackknife("mean", values.mean(), left_out)
    low, high = stats.t.interval(0.95, 7, values.mean(), stats.sem(values))
    assert (found["mean_ci_low"], found["mean_ci_high"]) == pytest.approx((low, high), abs=1e-7)


@pytest.mark.parametrize(("count", "width"), [(64, 8), (24, 32)])
def test_the_intervals_of_frechet_distances_hold_their_expectation(count, width):
    """Of pairs, with more features than their width and with fewer, in 95 of 100 sets."""
    random, found = np.random.default_rng(1), list[dict[str, float]]()
    for _ in range(80):
        real = random.normal(size=(count, width))
        ours = 0.8 * real + 0.5 * random.normal(size=real.shape) + 0.2
        a, b = (SumsByPart.of(each) for each in (real, ours))
        pairs = zip(a.without_each(), b.without_each(), strict=True)
        left_out = [frechet_distance(x.statistics, y.statistics) for x, y in pairs]
        value = frechet_distance(a.whole.statistics, b.whole.statistics)
        found.append(with_jackknife("f", value, left_out))
    mean = np.mean([each["f"] for each in found])
    held = np.mean([each["f_ci_low"] <= mean <= each["f_ci_high"] for each in found])
    assert 0.9 <= held <= 1
    errors = [(each["f_ci_high"] - each["f"]) / stats.t.ppf(0.975, 7) for each in found]
    spread = np.std([each["f"] for each in found])
    assert 0.8 * spread < np.mean(errors) < 1.6 * spread


def test_a_set_with_an_empty_part_has_no_interval():
    assert not list(SumsByPart.of(np.eye(7)).without_each())


def test_what_a_kernel_distance_is_the_mean_of_has_its_mean_and_its_spread():
    random = np.random.default_rng(2)

    def kernel(a, b):
        return (a @ b.T / 6 + 1) ** 3

    parts, values, errors = [np.arange(0, 40), np.arange(40, 80)], [], []
    for _ in range(60):
        real, ours = random.normal(size=(80, 6)), random.normal(size=(80, 6)) * 1.3 + 0.4
        by_pair = np.concatenate([mmd_by_pair(real[p], ours[p], kernel) for p in parts])
        found = influences(by_pair, parts)
        values.append(found.mean())
        errors.append(found.std() / 80**0.5)
    assert values[-1] == pytest.approx(
        np.mean([squared_mmd(real[p], ours[p], kernel).value for p in parts])
    )
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.3)
