"""Near twins count as one image, whether all pairs are compared or the nearest cells alone."""

from __future__ import annotations

import numpy as np
import pytest

from corgi_core.data import balance
from corgi_core.data.balance import MAX_REPEATS, TWIN_COSINE, repeats_of


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
    monkeypatch.setattr(balance, "EXACT_UP_TO", 1000)
    found = repeats_of(z)
    assert np.mean(found == expected) > 0.98
    assert np.mean(found < expected) < 0.01  # cosines are rounded, none is invented
    monkeypatch.setattr(balance, "EXACT_UP_TO", len(z))
    assert (repeats_of(z) == expected).all()
