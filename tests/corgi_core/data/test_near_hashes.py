"""Pairs of near hashes, against a comparison of all with all."""

from itertools import combinations

import numpy as np
import pytest

from corgi_core.data.near_hashes import near_pairs


def some_hashes() -> np.ndarray:
    """Random hashes; some are there again with up to seven bits flipped, one a few times."""
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 600, dtype=np.uint64)
    flipped = hashes[:400].copy()
    for row, at in enumerate(range(0, 400)):
        for bit in random.choice(64, row % 8, replace=False).tolist():
            flipped[at] ^= np.uint64(1 << bit)
    every = np.concatenate([hashes, flipped, hashes[:3], hashes[:3]])
    random.shuffle(every)
    return every


@pytest.mark.parametrize("bits", [0, 1, 4, 6])
@pytest.mark.parametrize("at_once", [2**22, 100])
def test_they_are_those_of_a_comparison_of_all_with_all(bits: int, at_once: int) -> None:
    hashes = some_hashes()
    wanted = {
        (min(a, b), max(a, b))
        for a, b in combinations(hashes.tolist(), 2)
        if (a ^ b).bit_count() <= bits
    }
    found = near_pairs(hashes, bits, at_once)
    assert found.tolist() == sorted(map(list, wanted))
    assert len(wanted) > 40


def test_nothing_is_near_where_there_is_nothing() -> None:
    assert near_pairs(np.empty(0, np.uint64), 4).shape == (0, 2)
    assert near_pairs(np.array([7], np.uint64), 4).shape == (0, 2)


def test_thousands_of_almost_equal_hashes_are_found_with_eight_each_in_an_order_at_most() -> None:
    hashes = np.arange(3_000, dtype=np.uint64)  # the upper blocks are zero in all
    found = near_pairs(hashes, 4)
    assert len(found) <= 15 * 8 * 3_000
    assert (np.bitwise_count(found[:, 0] ^ found[:, 1]) <= 4).all()
    assert set(found.ravel().tolist()) == set(range(3_000))
