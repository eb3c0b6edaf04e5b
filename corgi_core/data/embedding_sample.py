"""A few embeddings of a store and the names of its shards: what later data are compared with.

Of data that a model has learned from, it outlives the shards themselves, and says which of today's
shards were not there yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from upath import UPath

from corgi_core.data.arrays import ArrayStore
from corgi_core.errors import CorgiError
from corgi_core.io.files import read_bytes, read_json, write_json
from corgi_core.io.folders import atomic_folder, published

ABOUT, ROWS = "sample.json", "sample.safetensors"


@dataclass(frozen=True)
class EmbeddingSample:
    """Embeddings of a store.

    Attributes:
        encoder: The digest of the encoders.
        shards: The digests of all the store's shards.
        rows: Some embeddings [n, d], float16.
    """

    encoder: str
    shards: frozenset[str]
    rows: NDArray[np.float16]

    @classmethod
    def of(cls, store: ArrayStore, name: str, size: int) -> Self:
        """At most `size` rows of the array `name`, which are the same whenever it is taken."""
        shards = frozenset(store.shard_digest(shard) for shard in store.shards)
        return cls(store.spec["encoder"], shards, sampled(store, name, store.shards, size))

    def new_in(self, store: ArrayStore) -> list[str]:
        """The shards of a store that were not there when the sample was taken."""
        return [shard for shard in store.shards if store.shard_digest(shard) not in self.shards]

    def save(self, folder: Path | UPath) -> None:
        """Write the sample, whole or not at all."""
        about: Mapping[str, Any] = {"encoder": self.encoder, "shards": sorted(self.shards)}
        with atomic_folder(folder) as temporary:
            write_json(temporary / ABOUT, about)
            (temporary / ROWS).write_bytes(safetensors.numpy.save({"rows": self.rows}))

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        """Read what `save` wrote; CorgiError where there is none."""
        folder = published(folder)
        if not (folder / ABOUT).exists():
            raise CorgiError(f"{folder} holds no sample", "materialise the embeddings again")
        about = read_json(folder / ABOUT)
        rows = safetensors.numpy.load(read_bytes(folder / ROWS))["rows"]
        return cls(about["encoder"], frozenset(about["shards"]), rows)


def sampled(store: ArrayStore, name: str, shards: Sequence[str], size: int) -> NDArray[np.float16]:
    """At most `size` rows of an array, uniformly from some of its shards, which are not empty."""
    ends = np.cumsum([store.rows_in(shard) for shard in shards])
    total = int(ends[-1])
    rows = np.random.default_rng(0).choice(total, min(size, total), replace=False)
    rows.sort()
    of_shard = np.searchsorted(ends, rows, side="right")
    found = [
        store.mapped(shards[number], name)[rows[of_shard == number] - start]
        for number in np.unique(of_shard)
        for start in [ends[number] - store.rows_in(shards[number])]
    ]
    return np.concatenate(found).astype(np.float16)
