"""Held-out images that have a near twin in another split: they do not count.

The gate puts near twins by perceptual hash into one split. What it cannot move, and what only the
embeddings show, is found here: splits that the data came with, images that connect old ones of two
splits, precomputed embeddings, crops and other shots of one scene. A test image with a near twin in
the training split does not count, nor does a validation image with one in either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from upath import UPath

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.gate_tables import read_hashes
from corgi_core.data.splits import TEST, VALIDATION
from corgi_core.data.twins import HashedRows, pairs_of
from corgi_core.errors import CorgiError
from corgi_core.evaluation.split_neighbours import OTHERS, neighbours_in
from corgi_core.io.files import digest_of, read_json, write_json
from corgi_core.io.folders import atomic_folder, published

OVERLAP = "split_overlap.json"
COLUMNS = ["key", "split", "bits", "hash_key", "cosine", "nearest_key"]


@dataclass(frozen=True)
class SplitOverlap:
    """Which held-out images of a dataset do not count.

    Attributes:
        images: How many images the test and the validation split have.
        pairs: A row for each that does not count: key and split; bits and hash_key, of the image
            whose hash is near; cosine and nearest_key, of the image whose embedding is near. None
            where there is no such image.
    """

    images: dict[str, int]
    pairs: pd.DataFrame

    @property
    def left_out(self) -> frozenset[str]:
        """The keys of all images that do not count."""
        return frozenset(self.pairs["key"])

    def keys(self, split: str) -> frozenset[str]:
        """The keys of a split's images that do not count."""
        return frozenset(self.pairs.loc[self.pairs["split"] == split, "key"])

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of images: of each split, and of those that do not count, by what is near."""
        split = self.pairs["split"]
        return {
            "test_images": self.images[TEST],
            "test_images_left_out": int((split == TEST).sum()),
            "validation_images": self.images[VALIDATION],
            "validation_images_left_out": int((split == VALIDATION).sum()),
            "near_by_hash": int(self.pairs["hash_key"].notna().sum()),
            "near_by_embedding": int(self.pairs["nearest_key"].notna().sum()),
        }

    @property
    def displayed(self) -> pd.DataFrame:
        """The pairs, with None and no NaN where there is nothing."""
        rows = [
            {name: None if pd.isna(value) else value for name, value in row.items()}
            for row in self.pairs.to_dict("records")
        ]
        return pd.DataFrame(rows, columns=COLUMNS, dtype=object)

    @property
    def digest(self) -> str:
        """Of the images that do not count: the same as long as they are the same."""
        return digest_of(sorted(self.keys(TEST)), sorted(self.keys(VALIDATION)))

    def save(self, folder: Path | UPath) -> None:
        """Write split_overlap.json, whole or not at all."""
        with atomic_folder(folder) as temporary:
            rows = self.displayed.to_dict("records")
            write_json(temporary / OVERLAP, {"images": self.images, "pairs": rows})

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        """Read what `save` wrote; CorgiError where there is none."""
        folder = published(folder)
        if not (folder / OVERLAP).exists():
            raise CorgiError(f"{folder} holds no split overlap", "materialise `split_overlap`")
        content: dict[str, Any] = read_json(folder / OVERLAP)
        return cls(content["images"], pd.DataFrame(content["pairs"], columns=COLUMNS))


def split_overlap_of(
    images: Dataset,
    embeddings: ArrayStore,
    neighbours: ArrayStore | None,
    bits: int | None,
    cosine: float | None,
) -> SplitOverlap:
    """The held-out images of a gated dataset that have a near twin in another split.

    Args:
        images: The dataset.
        embeddings: Its image embeddings.
        neighbours: What `SplitNeighbours` found among them; None: embeddings do not count.
        bits: In which the hashes of near twins differ, at most; None: hashes do not count.
        cosine: From which on two images are near twins; with neighbours alone.
    """
    rows: dict[str, dict[str, Any]] = {}
    if bits is not None and images.holds_pictures:
        for near in near_hashes(images, bits):
            rows.setdefault(near.key, {}).update(bits=near.bits, hash_key=near.other)
    if neighbours is not None and cosine is not None:
        for key, found, nearest in neighbours_in(neighbours, images, embeddings, cosine):
            rows.setdefault(key, {}).update(cosine=round(found, 6), nearest_key=nearest)
    pairs = pd.DataFrame(
        [{"key": key, "split": split, **rows[key]} for key, split in _held_out(images, rows)],
        columns=COLUMNS,
    )
    counts = {split: sum(images.images_of(split).values()) for split in OTHERS}
    return SplitOverlap(counts, pairs)


def _held_out(images: Dataset, wanted: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The wanted keys with their splits, in the dataset's order."""
    for part in images.iter_rows("key", "split") if wanted else ():
        chosen = part[part["key"].isin(wanted.keys())]
        yield from chosen.itertuples(index=False, name=None)


class NearHash(NamedTuple):
    """A held-out image, and one of another split whose hash is near."""

    key: str
    other: str
    bits: int


def near_hashes(images: Dataset, bits: int) -> Iterator[NearHash]:
    """Held-out images whose perceptual hash is near that of an image in another split.

    As in `SplitNeighbours`, with the nearest hash of all. Memory holds the images that have a near
    hash anywhere.
    """

    def read(shard: str) -> HashedRows:
        keys, hashes, hashed = read_hashes(images.folder, shard)
        rows = images.rows(shard, "key", "split")
        return HashedRows(keys, keys, rows["split"].tolist(), hashes, hashed)

    pairs = pairs_of(images.shards, read, bits)
    wanted, ends = np.unique(pairs), pairs.tolist()
    beside: dict[int, set[int]] = {each: set() for each in wanted.tolist()}
    for one, other in ends:
        beside[one].add(other)
        beside[other].add(one)
    at: dict[tuple[int, str], list[str]] = {}  # keys by hash and split
    for shard in images.shards if len(wanted) else ():
        rows = read(shard)
        for row in np.flatnonzero(rows.hashed & np.isin(rows.hashes, wanted)).tolist():
            named = int(rows.hashes[row]), rows.splits[row]
            at.setdefault(named, []).append(rows.keys[row])
    for (own, split), keys in at.items():
        near = sorted(
            ((own ^ other).bit_count(), at[other, those][0])
            for other in beside[own]
            for those in OTHERS.get(split, ())
            if (other, those) in at
        )
        yield from (NearHash(key, near[0][1], near[0][0]) for key in keys if near)
