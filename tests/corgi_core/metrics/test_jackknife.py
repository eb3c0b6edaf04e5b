"""The jackknife of parts against closed forms, and against the scores of many sets."""

import numpy as np
import pytest
from scipy import stats

from corgi_core.metrics.bootstrap import sum_with_interval
from corgi_core.metrics.frechet import SumsByPart, frechet_by_part
from corgi_core.metrics.jackknife import with_jackknife
from corgi_core.metrics.mmd import influences, mmd_by_pair, mmd_influences, squared_mmd
from corgi_core.metrics.vendi import vendi, vendi_bias, vendi_by_part
from tests.helpers.picture_metrics import frechet


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
        value, *left_out = frechet_by_part(SumsByPart.of(ours), SumsByPart.of(real))
        found.append(with_jackknife("f", value, left_out))
    mean = np.mean([each["f"] for each in found])
    held = np.mean([each["f_ci_low"] <= mean <= each["f_ci_high"] for each in found])
    assert 0.9 <= held <= 1
    errors = [(each["f_ci_high"] - each["f"]) / stats.t.ppf(0.975, 7) for each in found]
    spread = np.std([each["f"] for each in found])
    assert 0.8 * spread < np.mean(errors) < 1.6 * spread


def test_without_a_part_is_what_the_sets_without_its_rows_have():
    """The parts' rows are cut from one permutation; two sets of other sizes lose a part each."""
    random = np.random.default_rng(4)
    real, ours = random.normal(size=(30, 5)), random.normal(size=(24, 5)) + 0.3
    remaining = [
        [np.delete(each, part, axis=0) for part in np.split(order, ends)]
        for each, order, ends in (
            (each, np.random.default_rng(0).permutation(len(each)),
             [n * len(each) // 8 for n in range(1, 8)])
            for each in (ours, real)
        )
    ]  # fmt: skip
    value, *left_out = frechet_by_part(SumsByPart.of(ours), SumsByPart.of(real))
    assert value == pytest.approx(frechet(ours, real))
    assert left_out == pytest.approx([frechet(*pair) for pair in zip(*remaining, strict=True)])
    for rows in (ours, ours[:, :2] @ random.normal(size=(2, 40))):  # fewer coordinates, and more
        value, *left_out = vendi_by_part(rows)
        assert value == pytest.approx(vendi(rows))
        each = np.array_split(np.random.default_rng(0).permutation(24), 8)
        expected = [vendi(np.delete(rows, part, axis=0)) for part in each]
        assert left_out == pytest.approx(expected)


def test_a_set_with_an_empty_part_has_no_interval():
    assert not list(SumsByPart.of(np.eye(7)).without_each())
    assert len(vendi_by_part(np.eye(7))) == len(vendi_by_part(np.ones((7, 2)))) == 1
    assert with_jackknife("vendi", 7.0, []) == {"vendi": 7.0}


def test_the_bias_of_a_vendi_score_is_found_for_many_features_and_is_a_part_of_it_for_few():
    """Isotropic features of 16 numbers: endlessly many have the score 16."""
    random = np.random.default_rng(3)
    for count, least, most in ((200, 0.9, 1.1), (24, 0.6, 1.2)):
        every = [vendi_by_part(random.normal(size=(count, 16))) for _ in range(20)]
        true = np.mean([scores[0] for scores in every]) - 16
        assert true < 0
        assert least * -true < -np.mean([vendi_bias(scores) for scores in every]) < most * -true
    assert vendi_bias(vendi_by_part(np.eye(7))) is None


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


def test_kernel_distances_of_two_independent_sets_have_their_spread_and_their_intervals():
    """Sets of other sizes are sampled apart: each has its own share of the estimate's spread."""
    random = np.random.default_rng(5)

    def kernel(a, b):
        return (a @ b.T / 6 + 1) ** 3

    values, errors, held = [], [], []
    for _ in range(60):
        real, ours = random.normal(size=(60, 6)), random.normal(size=(90, 6)) * 1.2 + 0.3
        samples = mmd_influences(real, ours, kernel)
        assert [len(each) for each in samples] == [60, 90]
        values.append(sum(each.mean() for each in samples))
        errors.append(sum(each.var() / len(each) for each in samples) ** 0.5)
        found = sum_with_interval("kid", samples)
        held.append((found["kid_ci_low"], found["kid_ci_high"]))
    assert values[-1] == pytest.approx(squared_mmd(real, ours, kernel).value)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.3)
    low, high = np.array(held).T
    assert ((low < np.mean(values)) & (np.mean(values) < high)).mean() > 0.85
    pairs = mmd_influences(real, ours[:60], kernel)
    assert sum(e.mean() for e in pairs) == pytest.approx(squared_mmd(real, ours[:60], kernel).value)
    assert len(pairs) == 1
