"""Drift on distributions whose distance is known, and on halves of one."""

from __future__ import annotations

import numpy as np
import pytest

from corgi_core.metrics.drift import gap_change, mean_shift, occupancy

RANDOM = np.random.default_rng(0)
STRETCHED = np.geomspace(1, 0.01, 24)  # as embeddings are: few directions have the variance


def normal(count: int) -> np.ndarray:
    return RANDOM.normal(size=(count, 24)) * STRETCHED


@pytest.mark.parametrize("size", [0.2, 1.0])
def test_a_shift_of_the_mean_has_its_size_in_units_of_the_spread(size: float) -> None:
    direction = np.eye(24)[3] * size * np.linalg.norm(STRETCHED)
    found = mean_shift(normal(600), normal(400) + direction)
    assert found.size == pytest.approx(size, abs=0.05)
    assert found.z > 10


def test_halves_of_one_set_have_not_drifted() -> None:
    found = [mean_shift(normal(300), normal(100)) for _ in range(40)]
    z = np.array([each.z for each in found])
    assert abs(z.mean()) < 0.5
    assert (z > 4).sum() <= 1
    assert np.median([each.size for each in found]) < 0.1


def test_occupancy_is_the_index_of_its_definition_and_about_zero_by_chance() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    counts = [np.repeat(np.arange(3), (5000 * shares).astype(int)) for shares in (p, q)]
    found = occupancy(counts[0], counts[1], k=4)  # the fourth is empty in both
    assert found.psi == pytest.approx(((q - p) * np.log(q / p)).sum(), abs=0.002)
    assert found.p < 1e-9
    chance = [
        occupancy(RANDOM.integers(16, size=300), RANDOM.integers(16, size=100), 16)
        for _ in range(40)
    ]
    assert np.median([each.psi for each in chance]) < 0.05
    assert np.mean([each.p < 0.05 for each in chance]) < 0.2
    assert occupancy(np.zeros(9, int), np.zeros(9, int), 1) == (0.0, 1.0)


def test_the_gap_is_the_distance_of_the_mean_directions_and_its_interval_holds_the_truth() -> None:
    def around(*direction: float) -> np.ndarray:
        return np.concatenate([np.array(direction) + 0.05 * RANDOM.normal(size=(400, 2))] * 2, 1)

    images, texts, nearer = around(1, 0), around(0, 1), around(1, 1)
    found = gap_change((images, texts), (images, nearer), (2, 2))
    assert found.before == pytest.approx(2**0.5, abs=0.01)
    after = np.linalg.norm([1 - 2**-0.5, 2**-0.5])
    assert found.after == pytest.approx(after, abs=0.01)
    assert found.low < after - 2**0.5 < found.high < 0
