"""Sets of images that are asked for a shard at a time, so that nobody holds all their keys."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from corgi_core.data.dataset import Dataset, sources_of
from corgi_core.data.splits import TRAIN, VALIDATION
from corgi_core.io.files import digest_of


class KeySet(Protocol):
    """Some images of a dataset."""

    @property
    def digest(self) -> str:
        """Names the set."""

    def among(self, shard: str, keys: NDArray[np.str_]) -> NDArray[np.bool_]:
        """Which of the keys [n], all of that shard, are in the set: [n] of bool."""


@dataclass(frozen=True)
class SplitKeys:
    """The images of one split, such as "train", of all sources or of one.

    Attributes:
        images: The dataset.
        split: The split's name.
        source: Only images of this source.
        left_out: Keys of images that are not in the set.
    """

    images: Dataset
    split: str
    source: str | None = None
    left_out: frozenset[str] = frozenset()

    @property
    def digest(self) -> str:
        """Names the dataset's content, the split, the source and what is left out."""
        left_out = [sorted(self.left_out)] if self.left_out else []
        return digest_of(self.images.digest, self.split, self.source, *left_out)

    def among(self, shard: str, keys: NDArray[np.str_]) -> NDArray[np.bool_]:
        """Which of the keys [n] of that shard are in the split."""
        rows = self.images.rows(shard, "key", "split", "source")
        chosen = rows["split"] == self.split
        if self.source is not None:
            chosen &= sources_of(rows) == self.source
        if self.left_out:
            chosen &= ~rows["key"].isin(list(self.left_out))
        return np.isin(keys, rows.loc[chosen, "key"].to_numpy(dtype=str))


def validation_keys(images: Dataset, left_out: Collection[str]) -> SplitKeys:
    """The validation images that count: by them trainings are watched, and penalties are chosen.

    Args:
        images: What is learned from.
        left_out: The keys of its held-out images that have a near twin in another split, as
            `SplitOverlap.left_out` has them.
    """
    return SplitKeys(images, VALIDATION, left_out=frozenset(left_out))


@dataclass(frozen=True)
class TrainingKeys:
    """The training images that have captions, or those that have none."""

    images: Dataset
    captioned: bool  # which of them

    @property
    def digest(self) -> str:
        """Names the dataset's content and which of the images."""
        return digest_of(self.images.digest, TRAIN, self.captioned)

    @property
    def count(self) -> int:
        """How many there are, by the shards' records."""
        return sum(self.counts.values())

    @property
    def counts(self) -> dict[str, int]:
        """How many each shard has, of the shards that have some; no manifest is read."""
        found = {
            shard: sum(
                each.captioned if self.captioned else each.images - each.captioned
                for each in record.counts
                if each.split == TRAIN
            )
            for shard, record in self.images.records.items()
        }
        return {shard: count for shard, count in found.items() if count}

    def among(self, shard: str, keys: NDArray[np.str_]) -> NDArray[np.bool_]:
        """Which of the keys [n] of that shard are in the set."""
        return np.isin(keys, self.keys(shard))

    def keys(self, shard: str) -> NDArray[np.str_]:
        """The keys of a shard's images of the set."""
        rows = self.images.rows(shard, "key", "split")
        chosen = (rows["split"] == TRAIN) & (self.images.captioned(shard) == self.captioned)
        found: NDArray[np.str_] = rows.loc[chosen, "key"].to_numpy(dtype=str)
        return found


@dataclass(frozen=True)
class ListedKeys:
    """Images by their keys, all in memory: for a few of them."""

    keys: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Names the keys, in any order."""
        return digest_of(sorted(self.keys))

    def among(self, shard: str, keys: NDArray[np.str_]) -> NDArray[np.bool_]:
        """Which of the keys [n] are listed."""
        return np.isin(keys, self._array)

    @cached_property
    def _array(self) -> NDArray[np.str_]:
        return np.array(self.keys, dtype=str)
