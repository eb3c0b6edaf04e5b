"""Sets of images that are asked for a shard at a time, so that nobody holds all their keys."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from corgi_core.data.dataset import Dataset, sources_of
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
    """The images of one split, such as "train", of all sources or of one."""

    images: Dataset
    split: str
    source: str | None = None

    @property
    def digest(self) -> str:
        """Names the dataset's content, the split and the source."""
        return digest_of(self.images.digest, self.split, self.source)

    def among(self, shard: str, keys: NDArray[np.str_]) -> NDArray[np.bool_]:
        """Which of the keys [n] of that shard are in the split."""
        rows = self.images.rows(shard, "key", "split", "source")
        chosen = rows["split"] == self.split
        if self.source is not None:
            chosen &= sources_of(rows) == self.source
        return np.isin(keys, rows.loc[chosen, "key"].to_numpy(dtype=str))


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
