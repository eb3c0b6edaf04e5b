"""The sets of pictures that statistics are of, and their features, read from the stored chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from corgi_core.data.arrays import ArrayStore
from corgi_core.evaluation.held_out import AnyCase, Chunks, HeldOut
from corgi_core.evaluation.picture_features import CLIP, Pictures
from corgi_core.io.files import digest_of
from corgi_core.metrics.features import Features, shuffled_parts, unit_rows


@dataclass(frozen=True)
class PictureSet:
    """All pictures of a case, or a random half of them.

    Attributes:
        pictures: The case.
        half: 0 or 1, the same halves for every case; None for all pictures.
    """

    pictures: Pictures
    half: int | None = None

    @property
    def digest(self) -> str:
        """Names the case and the half."""
        return digest_of("set", self.pictures.digest, self.half)

    def rows(self, total: int) -> NDArray[np.int64]:
        """The set's rows among `total` captions; of an odd number, one is in neither half.

        Only sums over a half have it: pairs are of sets of one size, sums of any.
        """
        if self.half is None:
            return np.arange(total)
        return shuffled_parts(total, 2, seed=0)[self.half][: total // 2]


@dataclass(frozen=True)
class Compared:
    """Two sets of equally many pictures, of which one is measured against the other.

    Attributes:
        ours: The set that is measured.
        theirs: The real images.
    """

    ours: PictureSet
    theirs: PictureSet

    @property
    def digest(self) -> str:
        """Names both sets."""
        return digest_of("compared", self.ours.digest, self.theirs.digest)


def sets_of(pairs: Sequence[Compared]) -> list[PictureSet]:
    """The sets of all pairs, each once."""
    return list(dict.fromkeys(each for pair in pairs for each in (pair.ours, pair.theirs)))


@dataclass(frozen=True)
class Whole(Generic[AnyCase]):
    """The shards of what needs all pictures of a case at once: one for each case.

    Attributes:
        captions: Those of the pictures.
        cases: The cases.
    """

    captions: HeldOut
    cases: Sequence[AnyCase]

    @property
    def shards(self) -> list[str]:
        """The cases' digests."""
        return list(self._by_digest)

    def case(self, shard: str) -> AnyCase:
        """The case of a shard."""
        return self._by_digest[shard]

    def shard_digest(self, shard: str) -> str:
        """Names the case and the captions."""
        return digest_of(shard, self.captions.digest)

    def images_in(self, shard: str) -> int:
        """How many captions there are."""
        return len(self.captions)

    @cached_property
    def _by_digest(self) -> dict[str, AnyCase]:
        return {case.digest: case for case in self.cases}


@dataclass(frozen=True)
class SetFeatures:
    """The features of any rows of a case, from the arrays of `PictureFeatures`.

    Attributes:
        chunks: The captions in the chunks of the features.
        store: The arrays.
        among: The captions that sets are of [n], ascending, such as those of a stratum; None for
            all. A set's rows are numbers among these.
    """

    chunks: Chunks[Pictures]
    store: ArrayStore
    among: NDArray[np.int64] | None = None

    @cached_property
    def captions(self) -> HeldOut:
        """The captions that sets are of [n]."""
        every = self.chunks.captions
        return every if self.among is None else every.taken(self.among)

    def keys(self, rows: NDArray[np.int64]) -> NDArray[np.str_]:
        """The keys of the images of some rows [m]."""
        return np.array([self.captions.keys[row] for row in rows])

    def width(self, extractor: str) -> int:
        """How many features an extractor gives of a picture."""
        width: int = self.store.mapped(self.chunks.shards[0], extractor).shape[1]
        return width

    def read(self, case: Pictures, extractor: str, rows: NDArray[np.int64]) -> Features:
        """The features [m, d] of the captions' rows [m], m ≥ 1; CLIP's of norm 1.

        One chunk is mapped into memory at a time.
        """
        chunks, positions = self._where
        found: Features | None = None
        wanted = rows if self.among is None else self.among[rows]
        for number, shard in enumerate(self.chunks.shards_of(case)):
            at = np.flatnonzero(chunks[wanted] == number)
            if not len(at):
                continue
            array = self.store.mapped(shard, extractor)[positions[wanted[at]]]
            if found is None:
                found = np.empty((len(rows), array.shape[1]), array.dtype)
            found[at] = array
        assert found is not None, "no rows were asked for"
        return unit_rows(found).astype(np.float32) if extractor == CLIP else found

    @cached_property
    def _where(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The number of the chunk that has each of all captions, and its row there."""
        chunks, positions = np.empty((2, len(self.chunks.captions)), np.int64)
        for number, shard in enumerate(self.chunks.shards_of(self.chunks.cases[0])):
            _, rows = self.chunks.part(shard)
            chunks[rows], positions[rows] = number, np.arange(len(rows))
        return chunks, positions
