"""All pairs of hashes that differ in a few bits, in time that is linear up to 10⁷ hashes.

The 64 bits are cut into b + 2 blocks. Two hashes that differ in at most b bits agree in at least
two whole blocks, so they meet where the hashes are sorted by those two: once for each pair of
blocks (Manku et al., Detecting Near-Duplicates for Web Crawling, 2007, section 3). With b = 4 that
is 15 times, by keys of 20 to 22 bits, which 10⁷ unrelated hashes share by fives.

Memory holds the hashes that are sorted at once and the pairs that are found. The hashes themselves
may lie in a file that is mapped into memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

WIDTH = 64  # bits of a hash
AT_ONCE = 2**22  # hashes that are sorted at once, about
READ_AT_ONCE = 2**20
WINDOW = 256  # of hashes that agree in two blocks, each is compared with so many that follow …
ENOUGH = 8  # … or until so many of them are near

Block = tuple[int, int]
"""The lowest bit of some adjacent bits, and their number."""


def near_pairs(hashes: NDArray[np.uint64], bits: int, at_once: int = AT_ONCE) -> NDArray[np.uint64]:
    """The pairs of hashes that differ in at most `bits` bits.

    Some pairs may be missing where more than `WINDOW` different hashes agree in two blocks, or
    where more than `ENOUGH` are near the same one, as those of thousands of almost equal pictures.

    Args:
        hashes: Any hashes uint64 [n], in any order.
        bits: That may differ, 0 … 6.
        at_once: How many hashes are sorted at once, about.

    Returns:
        uint64 [p, 2], sorted, each pair once, the smaller hash first. A hash that is there several
        times is a pair with itself.
    """
    found = [np.empty((0, 2), np.uint64)]
    for number, (order, key_bits) in enumerate(_orders(bits)):
        for run in _sorted_runs(hashes, order, at_once):
            first = np.ones(len(run), bool)
            first[1:] = run[1:] != run[:-1]
            repeated = np.unique(run[~first]) if number == 0 else run[:0]
            distinct = run[first]
            pairs = np.concatenate(
                [np.stack([repeated, repeated], axis=1), *_close(distinct, key_bits, bits)]
            )
            found.append(np.sort(_restored(pairs, order), axis=1))
        found = [_distinct(np.concatenate(found))]
    return found[0]


def _orders(bits: int) -> Iterator[tuple[list[Block], int]]:
    """The blocks with two of them first, for every two; and these two's number of bits."""
    edges = np.linspace(0, WIDTH, bits + 3).round().astype(int).tolist()
    blocks = [(low, high - low) for low, high in pairwise(edges)]
    for two in combinations(blocks, 2):
        yield [*two, *(each for each in blocks if each not in two)], two[0][1] + two[1][1]


def _rearranged(hashes: NDArray[np.uint64], order: Sequence[Block]) -> NDArray[np.uint64]:
    """The hashes with their blocks in another order, the first one highest."""
    arranged = np.zeros(hashes.shape, np.uint64)
    for low, width in order:
        arranged <<= np.uint64(width)
        arranged |= (hashes >> np.uint64(low)) & np.uint64((1 << width) - 1)
    return arranged


def _restored(arranged: NDArray[np.uint64], order: Sequence[Block]) -> NDArray[np.uint64]:
    """What `_rearranged` was given."""
    hashes, end = np.zeros(arranged.shape, np.uint64), WIDTH
    for low, width in order:
        end -= width
        hashes |= ((arranged >> np.uint64(end)) & np.uint64((1 << width) - 1)) << np.uint64(low)
    return hashes


def _sorted_runs(
    hashes: NDArray[np.uint64], order: Sequence[Block], at_once: int
) -> Iterator[NDArray[np.uint64]]:
    """The rearranged hashes, sorted, in runs that no key is in two of."""
    parts_bits = min(max(0, (len(hashes) - 1).bit_length() - (at_once - 1).bit_length()), 8)
    for part in range(1 << parts_bits):
        chosen = []
        for first in range(0, len(hashes), READ_AT_ONCE):
            some = _rearranged(np.asarray(hashes[first : first + READ_AT_ONCE]), order)
            if parts_bits:
                some = some[some >> np.uint64(WIDTH - parts_bits) == part]
            chosen.append(some)
        run = np.concatenate([np.empty(0, np.uint64), *chosen])
        run.sort()
        yield run


def _close(run: NDArray[np.uint64], key_bits: int, bits: int) -> Iterator[NDArray[np.uint64]]:
    """Pairs [p, 2] of a sorted run that agree in the first `key_bits` and are near."""
    shift, rows = np.uint64(WIDTH - key_bits), np.arange(len(run))
    found = np.zeros(len(run), np.uint8)
    for offset in range(1, WINDOW + 1):
        rows = rows[(rows + offset < len(run)) & (found[rows] < ENOUGH)]
        rows = rows[run[rows] >> shift == run[rows + offset] >> shift]
        if not len(rows):
            return
        near = rows[np.bitwise_count(run[rows] ^ run[rows + offset]) <= bits]
        if len(near):
            found[near] += 1
            yield np.stack([run[near], run[near + offset]], axis=1)


def _distinct(pairs: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The pairs [p, 2], sorted, each once."""
    ordered = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    new = np.ones(len(ordered), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return ordered[new]
