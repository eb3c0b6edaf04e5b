"""The nearest image in another split to each held-out image, by the cosine of the embeddings.

Test images are compared with the training images, validation images with both. The comparison is
exact: all embeddings are read once for each block of about 8,192 held-out images, a shard at a
time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import Arrays, ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.revisions import SPLIT_NEIGHBOURS_REVISION
from corgi_core.data.splits import TEST, TRAIN, VALIDATION
from corgi_core.encoders.similarity import unit_per_encoder
from corgi_core.evaluation.nearest import COMPARED_AT_ONCE
from corgi_core.evaluation.training_neighbours import COMPARED_AS_ONE
from corgi_core.io.files import digest_of

OTHERS = {TEST: (TRAIN,), VALIDATION: (TRAIN, TEST)}
"""Split → the splits whose images its own must not be near to."""


@dataclass(frozen=True)
class HeldOutBlocks:
    """Shards of a dataset that have held-out images, put together into blocks.

    Attributes:
        images: The dataset.
        embeddings: Of its images.
        size: Of a block, in held-out images; of its last shard there may be more.
    """

    images: Dataset
    embeddings: ArrayStore
    size: int = COMPARED_AT_ONCE

    @property
    def shards(self) -> list[str]:
        """The blocks' names."""
        return list(self._members)

    def members(self, block: str) -> list[str]:
        """The dataset's shards in a block."""
        return self._members[block]

    def shard_digest(self, block: str) -> str:
        """Names the block's images, and all that they are compared with."""
        return digest_of(self.images.digest, self.embeddings.digest, self.members(block))

    def images_in(self, block: str) -> int:
        """How many held-out images a block has."""
        return sum(self._held_out[shard] for shard in self.members(block))

    @cached_property
    def _held_out(self) -> dict[str, int]:
        of_splits = [self.images.images_of(split) for split in OTHERS]
        counts = {shard: sum(of.get(shard, 0) for of in of_splits) for shard in self.images.shards}
        return {shard: count for shard, count in counts.items() if count}

    @cached_property
    def _members(self) -> dict[str, list[str]]:
        blocks: list[list[str]] = []
        total = self.size
        for shard, count in self._held_out.items():
            if total >= self.size:
                blocks.append([])
                total = 0
            blocks[-1].append(shard)
            total += count
        return {f"{number:05d}": members for number, members in enumerate(blocks)}


@dataclass(frozen=True)
class SplitNeighbours(ArrayJob):
    """Arrays "cosine" [n], averaged over the encoders, "shard" [n] and "row" [n] of the nearest.

    A shard is named by its position among the dataset's, a row by its position among the shard's
    embeddings. Without any image in another split the cosine is −1.

    Attributes:
        images: The held-out images in blocks.
        dataset: With all images.
        embeddings: Their embeddings.
    """

    images: HeldOutBlocks
    dataset: Dataset
    embeddings: ArrayStore
    what = "looking for near images in other splits"
    revision = SPLIT_NEIGHBOURS_REVISION
    uses_device = True

    @property
    def about(self) -> dict[str, Any]:
        """What images are compared by."""
        return {"encoder": self.embeddings.spec["encoder"]}

    @property
    def weight(self) -> int:
        """It grows with the images that one is compared with."""
        return 1 + len(self.dataset) // COMPARED_AS_ONE

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a block's name to its arrays."""

        def compared(block: str) -> Arrays:
            parts = [self._rows(shard, tuple(OTHERS)) for shard in self.images.members(block)]
            keys, splits, z = (np.concatenate(column) for column in zip(*parts, strict=True))
            own = self._directions(z).to(device)
            best = _Best(len(own))
            for number, shard in enumerate(self.dataset.shards):
                _, there, others = self._rows(shard, None)
                cosines = self._cosines(own, self._directions(others).to(device))
                for split, those in OTHERS.items():
                    best.take(number, cosines, splits == split, np.isin(there, those))
            return {"keys": keys, "cosine": best.cosines, "shard": best.shards, "row": best.rows}

        return compared

    def _rows(
        self, shard: str, splits: tuple[str, ...] | None
    ) -> tuple[NDArray[np.str_], NDArray[np.str_], NDArray[np.float16]]:
        """Keys, splits and embeddings of a shard's images, of all or of those splits."""
        keys, z = self.embeddings.read_with_keys(shard, "image")
        rows = self.dataset.rows(shard, "key", "split").set_index("key")["split"]
        there = rows.loc[keys.tolist()].to_numpy(str)
        wanted = np.ones(len(keys), bool) if splits is None else np.isin(there, splits)
        return keys[wanted], there[wanted], z[wanted]

    def _directions(self, z: NDArray[np.float16]) -> Tensor:
        return unit_per_encoder(torch.from_numpy(z.astype(np.float32)), self._encoder_dims)

    def _cosines(self, own: Tensor, others: Tensor) -> NDArray[np.float32]:
        found: NDArray[np.float32] = (own @ others.T / len(self._encoder_dims)).cpu().numpy()
        return found

    @property
    def _encoder_dims(self) -> list[int]:
        return list(self.embeddings.spec["encoder_dims"])


class _Best:
    """The nearest images found so far, of n images."""

    def __init__(self, count: int) -> None:
        self.cosines = np.full(count, -1, np.float32)
        self.shards, self.rows = (np.full(count, -1, np.int32) for _ in range(2))

    def take(
        self,
        shard: int,
        cosines: NDArray[np.float32],
        own: NDArray[np.bool_],
        others: NDArray[np.bool_],
    ) -> None:
        """Take in the cosines [n, m] of some of the n images to some of a shard's m."""
        at, columns = np.flatnonzero(own), np.flatnonzero(others)
        if not (len(at) and len(columns)):
            return
        some = cosines[np.ix_(at, columns)]
        nearest = some.argmax(axis=1)
        found = some[np.arange(len(at)), nearest]
        better = found > self.cosines[at]
        self.cosines[at[better]], self.shards[at[better]] = found[better], shard
        self.rows[at[better]] = columns[nearest[better]]


def neighbours_in(
    store: ArrayStore, dataset: Dataset, embeddings: ArrayStore, cosine: float
) -> Iterator[tuple[str, float, str]]:
    """Held-out images with a neighbour from that cosine on: key, cosine, the neighbour's key."""
    for block in store.shards:
        keys, cosines = store.read_with_keys(block, "cosine")
        shards, rows = store.read_shard(block, "shard"), store.read_shard(block, "row")
        for at in np.flatnonzero(cosines >= cosine).tolist():
            named = embeddings.shard_keys(dataset.shards[shards[at]])[rows[at]]
            yield str(keys[at]), float(cosines[at]), str(named)
