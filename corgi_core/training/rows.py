"""The rows that a training reads, numbered through all shards and gathered from the files.

Held in memory are a number a shard, and for the shards that are being read the rows' numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.keys import KeySet
from corgi_core.data.ragged import RaggedArray
from corgi_core.io.files import atomic_file, digest_of
from corgi_core.streaming.squares import Squares

SHARDS_HELD = 4096  # whose rows' numbers are in memory


class ShardPart(NamedTuple):
    """What of a batch lies in one shard."""

    shard: int  # its number
    rows: NDArray[np.int64]  # numbers among the shard's chosen rows
    at: NDArray[np.int64]  # their positions in the batch


class ChosenRows:
    """The rows of a store whose keys are in a set, numbered 0 … n − 1 in the shards' order.

    Args:
        store: Its rows are chosen, and its shards are the unit.
        keys: The set.
        first_only: Of several rows with one key, which a shard has one after the other, take the
            first.
        repeats: How often each chosen row of a shard comes, by the shard's number: uint8 [rows].
            By default once.
    """

    def __init__(
        self,
        store: ArrayStore,
        keys: KeySet,
        *,
        first_only: bool = False,
        repeats: Callable[[int], NDArray[np.uint8]] | None = None,
    ) -> None:
        self.store, self.keys = store, keys
        self._first_only, self._repeats = first_only, repeats
        self._shards = store.shards
        self._chosen = lru_cache(SHARDS_HELD)(self._chosen_in)
        self._matched = lru_cache(SHARDS_HELD)(self._matching)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How many rows there are in each shard, int64 [shards]."""
        return np.array([len(self._chosen_in(s)) for s in range(len(self._shards))], np.int64)

    def prepare(self, folder: Path, name: str) -> None:
        """Count the rows of all shards, or read from `folder` what another process has counted."""
        of = digest_of(self.store.digest, self.keys.digest, self._first_only)
        path = folder / f"{name}-{of}.safetensors"
        if not path.exists():
            with atomic_file(path) as temporary:
                save_file({"counts": self.counts}, str(temporary))
        self.counts = load_file(path)["counts"]

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def shard_rows(self) -> list[int]:
        """`counts` as a list."""
        counts: list[int] = self.counts.tolist()
        return counts

    def spaced(self, most: int) -> Tensor:
        """The numbers of at most so many rows, evenly spaced, the first and the last included."""
        spaced = np.linspace(0, len(self) - 1, min(len(self), most)).round().astype(np.int64)
        return torch.from_numpy(spaced)

    def parts(self, rows: NDArray[np.int64]) -> Iterator[ShardPart]:
        """Rows number [b], by the shards that hold them, in the shards' order."""
        if not len(rows):
            return
        ends = self._ends
        shards = np.searchsorted(ends, rows, side="right")
        order = np.argsort(shards, kind="stable")
        found, begins = np.unique(shards[order], return_index=True)
        for shard, at in zip(found.tolist(), np.split(order, begins[1:]), strict=True):
            yield ShardPart(shard, rows[at] - (ends[shard] - self.counts[shard]), at)

    def gather(self, rows: Tensor, *arrays: tuple[ArrayStore, str]) -> list[Tensor]:
        """The given rows [b] of arrays of this store, or of others that have their keys.

        Args:
            rows: The rows' numbers, long [b], in any order.
            *arrays: Stores, sharded alike, and the names of their arrays.

        Returns:
            Each array's rows [b, …] as stored, in the order of `rows`.

        Raises:
            CorgiError: a file is damaged, or a store has no row of a key.
        """
        gathered = []
        parts = list(self.parts(rows.numpy()))
        for store, name in arrays:
            like = store.mapped(self._shards[parts[0].shard if parts else 0], name)
            values = np.empty((len(rows), *like.shape[1:]), like.dtype)
            for shard, numbers, at in parts:
                there = store.mapped(self._shards[shard], name)
                values[at] = there[self._rows_in(store, shard)[numbers]]
            gathered.append(torch.from_numpy(values))
        return gathered

    def gather_ragged(self, rows: Tensor, store: ArrayStore, name: str) -> RaggedArray:
        """The given rows [b] of a ragged array, as `gather` finds them."""
        if not len(rows):
            return store.mapped_ragged(self._shards[0], name).take(np.zeros(0, np.int64))
        return RaggedArray.gathered(
            len(rows),
            [
                (
                    store.mapped_ragged(self._shards[shard], name),
                    self._rows_in(store, shard)[numbers],
                    at,
                )
                for shard, numbers, at in self.parts(rows.numpy())
            ],
        )

    def gather_squares(self, rows: Tensor, squares: Squares, size: int) -> Tensor:
        """The given rows [b] as images uint8 [b, 3, size, size], as `gather` finds them."""
        parts = (
            (self._shards[shard], self._rows_in(squares.store, shard)[numbers], at)
            for shard, numbers, at in self.parts(rows.numpy())
        )
        return squares.gather(len(rows), parts, size)

    def shard_keys(self, shard: int) -> NDArray[np.str_]:
        """The keys of a shard's chosen rows, by the shard's number."""
        return self.store.shard_keys(self._shards[shard])[self._chosen(shard)]

    def _rows_in(self, store: ArrayStore, shard: int) -> NDArray[np.int32]:
        return self._chosen(shard) if store is self.store else self._matched(store, shard)

    def _chosen_in(self, shard: int) -> NDArray[np.int32]:
        """The numbers of a shard's chosen rows among all of its rows, int32."""
        name = self._shards[shard]
        keys = self.store.shard_keys(name)
        chosen = self.keys.among(name, keys)
        if self._first_only:
            chosen[1:] &= keys[1:] != keys[:-1]
        rows = np.flatnonzero(chosen).astype(np.int32)
        return rows if self._repeats is None else np.repeat(rows, self._repeats(shard))

    def _matching(self, store: ArrayStore, shard: int) -> NDArray[np.int32]:
        """The first rows of another store's shard that have the keys of the chosen rows, int32."""
        name = self._shards[shard]
        return store.first_rows(name, self.shard_keys(shard)).astype(np.int32)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return self.counts.cumsum()
