"""Precision and recall against brute force, and where the answer is plain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corgi_core.errors import CorgiError
from corgi_core.metrics.precision_recall import BLOCK, Manifold, between, precision_recall


def within(points, manifold, neighbours):
    """The share of points in a ball around a manifold's point, one pair at a time."""
    radii = [
        sorted(np.linalg.norm(m - other) for j, other in enumerate(manifold) if j != i)[
            neighbours - 1
        ]
        for i, m in enumerate(manifold)
    ]
    inside = [
        any(np.linalg.norm(p - m) <= r for m, r in zip(manifold, radii, strict=True))
        for p in points
    ]
    return np.mean(inside)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 14), st.integers(4, 14), st.integers(1, 3))
def test_agrees_with_brute_force(seed, n, m, neighbours):
    random = np.random.default_rng(seed)
    real, generated = random.normal(size=(n, 3)), random.normal(size=(m, 3)) * 1.5 + 0.3
    found = precision_recall(real, generated, neighbours)
    assert found.precision == pytest.approx(within(generated, real, neighbours))
    assert found.recall == pytest.approx(within(real, generated, neighbours))


def density_and_coverage(real, generated, neighbours):
    """One pair at a time, as Naeem et al. define them."""
    density, covered = 0, 0
    for i, x in enumerate(real):
        others = sorted(np.linalg.norm(x - other) for j, other in enumerate(real) if j != i)
        inside = sum(np.linalg.norm(x - y) <= others[neighbours - 1] for y in generated)
        density, covered = density + inside, covered + (inside > 0)
    return density / (neighbours * len(generated)), covered / len(real)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(6, 14), st.integers(6, 14), st.integers(3, 5))
def test_density_and_coverage_agree_with_brute_force(seed, n, m, neighbours):
    random = np.random.default_rng(seed)
    real, generated = random.normal(size=(n, 3)), random.normal(size=(m, 3)) * 0.7 + 0.3
    found = between(Manifold.of(real, neighbours), Manifold.of(generated, neighbours))
    expected = density_and_coverage(real, generated, neighbours)
    assert (found.density, found.coverage) == pytest.approx(expected)
    assert found[:2] == precision_recall(real, generated)


def test_of_one_distribution_density_and_coverage_are_the_papers_expectations():
    """1, and 1 − (n − 1) … (n − k) / ((2n − 1) … (2n − k)), which 2⁻ᵏ is the limit of."""
    random, n = np.random.default_rng(4), 120
    samples = random.normal(size=(40, 2, n, 4))
    found = [between(Manifold.of(a), Manifold.of(b)) for a, b in samples]
    k = np.arange(1, 6)
    expected = 1 - np.prod((n - k) / (2 * n - k))
    assert np.mean([each.density for each in found]) == pytest.approx(1, abs=0.03)
    assert np.mean([each.coverage for each in found]) == pytest.approx(expected, abs=0.01)


def plain(points, manifold, neighbours):
    """The share within, with all distances in memory at once."""

    def distances(a, b):
        squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
        return squares.clip(min=0)

    own = distances(manifold, manifold)
    np.fill_diagonal(own, -1)
    radii = np.sort(own, axis=1)[:, neighbours]
    return (distances(points, manifold) <= radii).any(axis=1).mean()


def test_blocks_give_what_the_whole_matrix_of_distances_gives():
    random = np.random.default_rng(2)
    real = random.normal(size=(2 * BLOCK + 3, 6)).astype(np.float32)
    generated = 1.2 * random.normal(size=(BLOCK + 1, 6)).astype(np.float32) + 0.4
    found = precision_recall(real, generated)
    a, b = real.astype(np.float64), generated.astype(np.float64)
    assert found == (plain(b, a, 3), plain(a, b, 3))
    assert 0.5 < found.precision < found.recall < 1


def test_a_collapsed_generator_is_precise_and_recalls_little():
    random = np.random.default_rng(0)
    real = random.normal(size=(300, 2))
    collapsed = 0.01 * random.normal(size=(300, 2))
    found = precision_recall(real, collapsed)
    assert found.precision == 1
    assert found.recall < 0.1
    spread = precision_recall(real, random.normal(size=(300, 2)))
    assert min(spread) > 0.9


def test_far_away_nothing_is_precise_and_the_same_set_is_itself():
    real = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    assert precision_recall(real, real + 100) == (0, 0)
    assert precision_recall(real, real) == (1, 1)


def test_too_few_or_broken_features_are_refused():
    real = np.zeros((5, 2))
    with pytest.raises(CorgiError, match="3 pictures have no 3 nearest"):
        precision_recall(real, np.zeros((3, 2)))
    with pytest.raises(CorgiError, match="not finite"):
        precision_recall(np.full((5, 2), np.nan), real)
