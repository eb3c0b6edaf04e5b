"""Embeddings that are read as often as needed, a shard at a time, and never held all at once.

What is computed from all of them is a sum over parts, each of some consecutive shards. Parts may be
computed anywhere, and are merged in the shards' order. So the bits of a result do not depend on how
many workers computed it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.keys import KeySet, SplitKeys
from corgi_core.errors import CorgiError
from corgi_core.mapping import Map, map_here

ROWS_AT_ONCE = 4096
PART = 16  # shards

Common = TypeVar("Common")
Result = TypeVar("Result")
Batches = Iterator[NDArray[np.float32]]


@dataclass(frozen=True)
class EmbeddingStream:
    """Embeddings in shards; it can be pickled where `read` can.

    Attributes:
        counts: How many each shard has.
        read: The embeddings [counts[i], d] of the shard number i, as float16 or float32.
    """

    counts: tuple[int, ...]
    read: Callable[[int], NDArray[np.floating[Any]]]

    @classmethod
    def of_array(cls, embeddings: NDArray[np.floating[Any]]) -> EmbeddingStream:
        """Embeddings [n, d] that are in memory already, as one shard."""
        return cls((len(embeddings),), _InMemory(embeddings))

    @classmethod
    def of_split(cls, images: Dataset, store: ArrayStore, split: str) -> EmbeddingStream:
        """The array "image" of the images of one split."""
        return cls.of_keys(store, SplitKeys(images, split), images.images_of(split))

    @classmethod
    def of_keys(cls, store: ArrayStore, keys: KeySet, counts: Mapping[str, int]) -> EmbeddingStream:
        """The array "image" of the images of a set, of which each shard has so many."""
        return cls(tuple(counts.values()), _Stored(store, "image", tuple(counts), keys))

    @classmethod
    def of_store(cls, store: ArrayStore, name: str) -> EmbeddingStream:
        """All rows of the array `name`."""
        counts = tuple(store.rows_in(shard) for shard in store.shards)
        return cls(counts, _Stored(store, name, tuple(store.shards)))

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.counts)

    def parts(
        self,
        function: Callable[[Common, int, Batches], Result],
        common: Common,
        what: str,
        mapped: Map = map_here,
    ) -> Generator[Result]:
        """function(common, first, batches) of every part, in order; to be closed as a `Map`'s.

        `first` is the number of embeddings before the part; the batches are float32 [≤ 4096, d].

        Raises CorgiError at an embedding that is not finite, and where a shard has another number
        of embeddings than `counts` says.
        """
        before = [0, *accumulate(self.counts)]
        parts = [(start, before[start]) for start in range(0, len(self.counts), PART)]
        yield from mapped(_part, (self, function, common), parts, what)

    def sample(
        self, size: int, seed: int, what: str, mapped: Map = map_here
    ) -> NDArray[np.float32]:
        """`size` embeddings, uniformly without replacement, in their order; all if there are fewer.

        Which ones depends on (count, size, seed) alone, not on the shards.
        """
        if size < self.count:
            random = np.random.default_rng(seed)
            rows = np.sort(random.choice(self.count, size, replace=False, shuffle=False))
        else:
            rows = np.arange(self.count)
        sampled, done = np.empty((len(rows), 0), dtype=np.float32), 0
        with closing(self.parts(_chosen, rows, what, mapped)) as parts:
            for part in filter(len, parts):
                if not done:
                    sampled = np.empty((len(rows), part.shape[1]), dtype=np.float32)
                sampled[done : done + len(part)] = part
                done += len(part)
        return sampled

    def batches(self, shard: int) -> Batches:
        """One shard's embeddings as float32 [≤ 4096, d]."""
        embeddings = self.read(shard)
        if len(embeddings) != self.counts[shard]:
            raise CorgiError(
                f"there are {len(embeddings)} embeddings where {self.counts[shard]} were expected",
                "materialise the embeddings again for the present images",
            )
        for first in range(0, len(embeddings), ROWS_AT_ONCE):
            batch = np.asarray(embeddings[first : first + ROWS_AT_ONCE], dtype=np.float32)
            if not np.isfinite(batch).all():
                raise CorgiError("an embedding is not finite", "materialise the embeddings again")
            yield batch


@dataclass(frozen=True)
class _InMemory:
    embeddings: NDArray[np.floating[Any]]

    def __call__(self, _shard: int) -> NDArray[np.floating[Any]]:
        return self.embeddings


@dataclass(frozen=True)
class _Stored:
    """Reads a store's shards; with `among` the rows of these keys only."""

    store: ArrayStore
    name: str
    shards: tuple[str, ...]
    among: KeySet | None = None

    def __call__(self, number: int) -> NDArray[np.floating[Any]]:
        shard = self.shards[number]
        if self.among is None:
            return self.store.read_shard(shard, self.name)
        keys, rows = self.store.read_with_keys(shard, self.name)
        return rows[self.among.among(shard, keys)]


def _part(
    common: tuple[EmbeddingStream, Callable[[Any, int, Batches], Result], Any],
    part: tuple[int, int],
) -> Result:
    """What the function makes of the part that starts with a shard, after so many embeddings."""
    (stream, function, rest), (start, first) = common, part
    shards = range(start, min(start + PART, len(stream.counts)))
    batches = (batch for shard in shards for batch in stream.batches(shard))
    return function(rest, first, batches)


def _chosen(rows: NDArray[np.int64], first: int, batches: Batches) -> NDArray[np.float32]:
    """Those of a part's embeddings whose numbers are among the sorted `rows`."""
    chosen = [np.empty((0, 0), dtype=np.float32)]
    for batch in batches:
        begin, end = np.searchsorted(rows, [first, first + len(batch)])
        if end > begin:
            chosen.append(batch[rows[begin:end] - first])
        first += len(batch)
    return np.concatenate(chosen[1:] or chosen)
