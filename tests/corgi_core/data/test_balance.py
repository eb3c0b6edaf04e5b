"""Near twins share one turn of the training; nobody is left out."""

import numpy as np
import pytest

from corgi_core.data.balance import MOST, balanced_rows


def family(size: int, seed: int) -> np.ndarray:
    """`size` embeddings within a cosine of 0.99 of each other."""
    random = np.random.default_rng(seed)
    return random.standard_normal(64) + 0.05 * random.standard_normal((size, 64))


@pytest.mark.parametrize(("size", "turns"), [(1, MOST), (2, MOST // 2), (4, 1), (50, 1)])
def test_a_family_of_up_to_four_has_as_many_turns_as_a_loner(size: int, turns: int) -> None:
    loners = [family(1, seed) for seed in range(1, 9)]
    rows = balanced_rows(np.concatenate([family(size, 0), *loners]).astype(np.float16))
    counts = np.bincount(rows, minlength=size + 8)
    assert counts[:size].tolist() == [turns] * size
    assert counts[size:].tolist() == [MOST] * 8


def test_one_image_alone_has_its_turns() -> None:
    assert balanced_rows(family(1, 0)).tolist() == [0] * MOST
