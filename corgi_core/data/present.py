"""Which images a dataset holds already, found out of core by columns of hashes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from upath import UPath

from corgi_core.data.dataset import Dataset
from corgi_core.data.hashes import HashColumn
from corgi_core.data.manifest import manifest_path
from corgi_core.data.parquet import read_frame
from corgi_core.data.splits import SPLITS


class Match(NamedTuple):
    """An image that is there."""

    key: str
    same_image: bool  # else it has the same key only
    added: bool  # it was not in the dataset, but is among what is being added


class Present:
    """The keys, images and groups of a dataset, and the keys that are added to it: 24 bytes a row.

    A hash says which manifest to look into; that says whether the key or the image is there.
    """

    def __init__(self, dataset: Dataset | None) -> None:
        self._keys, self._images, self._groups = HashColumn(), HashColumn(), HashColumn()
        self._manifests: list[Path | UPath] = []
        for shard in dataset.shards if dataset else ():
            assert dataset is not None
            rows = dataset.rows(shard, "key", "sha256", "split", "group")
            self._images.add(rows["sha256"].tolist(), len(self._manifests))
            for label, split in enumerate(SPLITS):
                groups = rows.loc[rows["split"] == split, "group"]
                self._groups.add(groups.unique().tolist(), label)
            self.add(rows["key"].tolist(), manifest_path(dataset.folder, shard))
        self._present = len(self._manifests)
        self._read = lru_cache(64)(self._read_manifest)

    def add(self, keys: Sequence[str], manifest: Path | UPath) -> None:
        """Take in the keys of a shard, whose manifest is at that path."""
        self._keys.add(keys, len(self._manifests))
        self._manifests.append(manifest)

    def matches(self, keys: Sequence[str], images: Sequence[str]) -> list[Match | None]:
        """For each key and its image's SHA-256, what is there of them: the image before the key."""
        by_image, by_key = self._images.labels_of(images), self._keys.labels_of(keys)
        return [
            self._image_match(images[i], by_image.get(i, ()))
            or self._key_match(keys[i], by_key.get(i, ()))
            for i in range(len(keys))
        ]

    def _image_match(self, sha256: str, shards: Sequence[int]) -> Match | None:
        found = (self._read(shard)[1].get(sha256) for shard in shards)
        key = next((key for key in found if key is not None), None)
        return None if key is None else Match(key, same_image=True, added=False)

    def _key_match(self, key: str, shards: Sequence[int]) -> Match | None:
        shard = next((shard for shard in shards if key in self._read(shard)[0]), None)
        if shard is None:
            return None
        return Match(key, same_image=False, added=shard >= self._present)

    def _read_manifest(self, shard: int) -> tuple[frozenset[str], dict[str, str]]:
        """A shard's keys, and the first key of each SHA-256."""
        rows = read_frame(self._manifests[shard], ("key", "sha256"))
        keys = rows["key"].tolist()
        return frozenset(keys), dict(
            zip(reversed(rows["sha256"].tolist()), reversed(keys), strict=True)
        )

    def splits_of(self, groups: Sequence[str]) -> list[str | None]:
        """The split that each group is in already; None where it is in none.

        By the hash alone: a group that is mistaken for another, once in 2⁴⁰ / n, stays whole.
        """
        found = self._groups.labels_of(groups)
        return [SPLITS[found[i][0]] if i in found else None for i in range(len(groups))]
