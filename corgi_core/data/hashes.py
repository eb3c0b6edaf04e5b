"""Which shards may hold a value: 8 bytes a row, whatever the values' length and number.

An entry is one number: 40 bits of the value's hash, then 24 bits of a label, such as a shard's
number. A value that was never added matches by chance once in 2⁴⁰ / n look-ups; so a match says
where to look, and the manifest there says whether it is true.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_LABEL_BITS = 24
_LABEL = np.uint64((1 << _LABEL_BITS) - 1)
MAX_LABEL = int(_LABEL)
_UNSORTED = 1 << 17  # entries, in many small arrays


class HashColumn:
    """A column of hashes with a label each, in sorted runs, of which each is twice the next."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []
        self._unsorted: list[NDArray[np.uint64]] = []

    def add(self, values: Sequence[str], label: int) -> None:
        """Add values under one label, 0 ≤ label ≤ `MAX_LABEL`."""
        if not 0 <= label <= MAX_LABEL:
            raise ValueError(f"the label {label} is not in 0..{MAX_LABEL}")
        if len(values):
            self._unsorted.append(_hashes(values) | np.uint64(label))
        if sum(map(len, self._unsorted)) >= _UNSORTED:
            self._sort()

    def labels_of(self, values: Sequence[str]) -> dict[int, list[int]]:
        """By the position of each value that may be there, the labels under which it was added.

        Labels are in increasing order; a value that was added is never missing.
        """
        self._sort()
        found: dict[int, set[int]] = {}
        if len(values) and self._runs:
            hashes = _hashes(values)
            for run in self._runs:
                first = np.searchsorted(run, hashes)
                end = np.searchsorted(run, hashes | _LABEL, side="right")
                for position in np.flatnonzero(end > first).tolist():
                    labels = run[first[position] : end[position]] & _LABEL
                    found.setdefault(position, set()).update(labels.tolist())
        return {position: sorted(labels) for position, labels in found.items()}

    def _sort(self) -> None:
        """Make one run of what was added since; runs of like sizes are joined."""
        if not self._unsorted:
            return
        run = np.concatenate(self._unsorted)
        self._unsorted.clear()
        run.sort()
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort()
        self._runs.append(run)

    def __len__(self) -> int:
        return sum(map(len, (*self._runs, *self._unsorted)))


def _hashes(values: Sequence[str]) -> NDArray[np.uint64]:
    """The values' hashes in the upper 40 bits, the same on every machine."""
    whole: NDArray[np.uint64] = pd.util.hash_array(np.array(values, dtype=object), categorize=False)
    return whole & ~_LABEL
