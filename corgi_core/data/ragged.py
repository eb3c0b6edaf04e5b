"""Rows of different lengths in one array without padding, such as the tokens of captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class RaggedArray:
    """n rows, one after the other: row i is `values[offsets[i] : offsets[i + 1]]`.

    Attributes:
        values: All rows' elements [sum of the lengths, …].
        offsets: Where each row begins, and where the last one ends: int64 [n + 1], from 0.
    """

    values: np.ndarray
    offsets: NDArray[np.int64]

    @classmethod
    def of_lengths(cls, values: np.ndarray, lengths: NDArray[np.int64]) -> RaggedArray:
        """The rows of these lengths [n], which sum to the number of `values`."""
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        if offsets[-1] != len(values):
            raise ValueError(f"rows of {offsets[-1]} values in all, but there are {len(values)}")
        return cls(values, offsets)

    @classmethod
    def concatenated(cls, parts: Sequence[RaggedArray]) -> RaggedArray:
        """The rows of the first part, then those of the next, and so on; one part at least."""
        values = np.concatenate([part.values for part in parts])
        return cls.of_lengths(values, np.concatenate([part.lengths for part in parts]))

    @classmethod
    def gathered(
        cls,
        count: int,
        parts: Sequence[tuple[RaggedArray, NDArray[np.integer[Any]], NDArray[np.int64]]],
    ) -> RaggedArray:
        """Some rows of several arrays of one kind.

        Args:
            count: The number of rows. Those that no part has are empty.
            parts: One at least: an array, rows [m] of it, and where they go among the `count`, [m].
        """
        lengths = np.zeros(count, np.int64)
        for array, rows, at in parts:
            lengths[at] = array.offsets[rows + 1] - array.offsets[rows]
        offsets = np.zeros(count + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        like = parts[0][0].values
        values = np.empty((int(offsets[-1]), *like.shape[1:]), like.dtype)
        for array, rows, at in parts:
            begins, ends = array.offsets[rows], array.offsets[rows + 1]
            for first, begin, end in zip(
                offsets[at].tolist(), begins.tolist(), ends.tolist(), strict=True
            ):
                values[first : first + end - begin] = array.values[begin:end]
        return cls(values, offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of elements of each row, int64 [n]."""
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.int64]) -> RaggedArray:
        """The given rows, int64 [m], in that order, as a copy."""
        begins, lengths = self.offsets[:-1][rows], self.lengths[rows]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        elements = np.repeat(begins - (ends - lengths), lengths) + np.arange(total)
        return RaggedArray.of_lengths(self.values[elements], lengths)

    def __len__(self) -> int:
        return len(self.offsets) - 1
