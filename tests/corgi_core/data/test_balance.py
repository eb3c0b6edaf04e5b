"""Near twins count as one image, whether all pairs are compared or the nearest cells alone."""

from __future__ import annotations

import numpy as np
import pytest

from corgi_core.data import balance
from corgi_core.data.balance import MAX_REPEATS, TWIN_COSINE


def repeats_of(z: np.ndarray) -> np.ndarray:
    """Of embeddings [n, d], of which each reading gets no more than are compared at once."""

    def read(rows: np.ndarray) -> np.ndarray:
        assert len(rows) <= max(balance.MEMBERS_AT_ONCE, balance.ROWS_AT_ONCE, balance.MAX_SAMPLE)
        return z[rows]

    return balance.repeats_of(read, len(z))


def family(size: int, seed: int, spread: float = 0.05) -> np.ndarray:
    """`size` embeddings near each other: within a cosine of 0.99 at the default spread."""
    random = np.random.default_rng(seed)
    return random.standard_normal(64) + spread * random.standard_normal((size, 64))


@pytest.mark.parametrize(
    ("size", "repeats"), [(1, MAX_REPEATS), (2, MAX_REPEATS // 2), (4, 1), (50, 1)]
)
def test_a_family_of_up_to_four_is_used_as_often_as_one_image(size: int, repeats: int) -> None:
    others = [family(1, seed) for seed in range(1, 9)]
    counts = repeats_of(np.concatenate([family(size, 0), *others]).astype(np.float16))
    assert counts[:size].tolist() == [repeats] * size
    assert counts[size:].tolist() == [MAX_REPEATS] * 8


def test_one_image_alone_is_trained_on() -> None:
    assert repeats_of(family(1, 0)).tolist() == [MAX_REPEATS]
    assert repeats_of(np.zeros((0, 64))).tolist() == []


def test_the_nearest_cells_find_nearly_all_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all pairs, computed here: families whose members have a cosine of about 0.9."""
    families = [family(1 + seed % 6, seed, spread=0.33) for seed in range(1000)]
    z = np.concatenate(families)
    directions = z / np.linalg.norm(z, axis=1, keepdims=True)
    twins = (directions @ directions.T >= TWIN_COSINE).sum(axis=1)
    expected = MAX_REPEATS // twins.clip(max=MAX_REPEATS)
    assert 0.3 < np.mean(expected < MAX_REPEATS) < 0.95
    for name, value in {"ROWS_AT_ONCE": 500, "MEMBERS_AT_ONCE": 300, "MAX_SAMPLE": 1500}.items():
        monkeypatch.setattr(balance, name, value)
    assert (repeats_of(z) == expected).all()
    monkeypatch.setattr(balance, "EXACT_UP_TO", 1000)
    monkeypatch.setattr(balance, "CELL_SIZE", 35)
    found = repeats_of(z)
    assert np.mean(found == expected) > 0.98
    assert (found >= expected).all()  # no twin is invented


def test_many_equal_images_are_compared_with_few_of_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A placeholder that a dataset is full of makes a large cell, which does not take long."""
    for name, value in {"EXACT_UP_TO": 1000, "CELL_SIZE": 200, "MEMBERS_AT_ONCE": 100}.items():
        monkeypatch.setattr(balance, name, value)
    z = np.concatenate(
        [np.repeat(family(1, 0), 3000, axis=0), *(family(1, s) for s in range(1, 9))]
    )
    compared = 0

    def read(rows: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(rows)
        return z[rows]

    counts = balance.repeats_of(read, len(z))
    assert counts.tolist() == [1] * 3000 + [MAX_REPEATS] * 8
    assert compared < 10 * len(z)
