"""A dataset on disk: tar shards with a manifest each, and the record of all of them.

<folder>/shards/00000.tar            WebDataset shards, see `shards`
<folder>/manifest/00000.parquet      one row an image of that shard, see `manifest`
<folder>/dataset.json                the shards' records; written last, so it means "whole"
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, field, fields
from functools import cached_property
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from upath import UPath

from corgi_core.data.manifest import (
    Count,
    ShardRecord,
    manifest_path,
    read_record,
    tar_path,
    write_manifest,
)
from corgi_core.data.parquet import Row, as_frame, read_arrow
from corgi_core.data.shards import (
    Sample,
    image_members,
    read_members,
    read_shard,
    row_of,
    two_images,
    write_shard,
)
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of, is_local, read_json, read_ranges, write_json
from corgi_core.io.folders import atomic_folder, copy_folder, published
from corgi_core.io.markers import check_replaceable
from corgi_core.io.read_errors import explained_read_error

FORMAT = 2  # raised when a dataset's files change; before 2 there was one manifest.parquet
INDEX = "dataset.json"
ABOUT = ("captions", "split", "source", "group")  # what a manifest says of a sample
_AGAIN = "ingest the data again with --replace"
Rows: TypeAlias = Callable[..., Iterable[pd.DataFrame]]
"""Yields a manifest in parts, or those of its columns that are named: `Dataset.iter_rows`."""


@dataclass(frozen=True)
class Dataset:
    """The dataset in `folder`; cheap to make and to pickle, as the folder is all that it holds."""

    folder: Path | UPath
    recomputed: int = field(default=0, compare=False)  # shards that the gate computed this time

    @classmethod
    def load(cls, folder: Path | UPath) -> Dataset:
        """The whole dataset in `folder`; a CorgiError where there is none."""
        folder = published(folder)
        if not (folder / INDEX).exists():
            if (folder / "manifest.parquet").exists():
                raise CorgiError(
                    f"{folder} was written by an older version of Corgi: it has one "
                    "manifest.parquet for all shards",
                    "read the data again, by `corgi ingest … --replace` and `corgi run`",
                )
            raise CorgiError(
                f"{folder} holds no whole dataset: it has no {INDEX}",
                "ingest the data (again), or name the folder that `corgi ingest` wrote",
            )
        dataset = cls(folder)
        if (found := dataset.index.get("format")) != FORMAT:
            raise CorgiError(
                f"the dataset in {folder} was written by another version of Corgi "
                f"(format {found}, this version reads {FORMAT})",
                "ingest the data again with --replace, or use the version that wrote them",
            )
        return dataset

    def save(self, folder: Path | UPath) -> None:
        """Copy the dataset to `folder`, whole or not at all; nothing to do when it is there."""
        copy_folder(self.folder, folder)

    @cached_property
    def index(self) -> dict[str, Any]:
        """What `dataset.json` says."""
        index: dict[str, Any] = read_json(self.folder / INDEX)
        return index

    @property
    def ingests(self) -> list[dict[str, Any]]:
        """What was read to make a raw dataset, in its order: format, path, what was passed over."""
        return list(self.index.get("ingests", []))

    @property
    def batches(self) -> list[int]:
        """The number of the ingest that brought each shard of a raw dataset, never decreasing.

        Of data that were ingested by an older version, the first number stands for several.
        """
        starts = [about["first_shard"] for about in self.ingests if "first_shard" in about]
        numbers = [int(shard) for shard in self.shards]
        found: list[int] = np.searchsorted(np.unique(starts), numbers, side="right").tolist()
        return found

    @property
    def owners_splits(self) -> list[str]:
        """The splits that the data of a raw dataset came with, if they were taken over.

        Without "test" their validation split is for testing, also in what is added later.
        """
        return list(self.index.get("owners_splits", []))

    @property
    def knows_owners_splits(self) -> bool:
        """Whether a raw dataset says so; those of before there was a validation split do not."""
        return "owners_splits" in self.index

    @cached_property
    def records(self) -> dict[str, ShardRecord]:
        """The record of every shard by its name, in the shards' order."""
        records = map(ShardRecord.from_json, self.index["shards"])
        return {record.name: record for record in records}

    @property
    def shards(self) -> list[str]:
        """The shards' names in order: "00000", "00001" and so on."""
        return list(self.records)

    @cached_property
    def counts(self) -> pd.DataFrame:
        """How many images there are, a row for each source and split; no manifest is read.

        Columns: source and split; images; sized, whose header says a width; captioned, those with
        captions; captions.
        """
        names = [column.name for column in fields(Count)]
        rows = [astuple(count) for record in self.records.values() for count in record.counts]
        frame = pd.DataFrame(rows, columns=names)
        return frame.groupby(["source", "split"], as_index=False, dropna=False).sum()

    def images_of(self, split: str) -> dict[str, int]:
        """How many images of a split each shard has, of the shards that have some."""
        images = {
            name: sum(count.images for count in record.counts if count.split == split)
            for name, record in self.records.items()
        }
        return {name: count for name, count in images.items() if count}

    @property
    def holds_pictures(self) -> bool:
        """Whether the images are pictures, and not precomputed embeddings."""
        return bool(self.counts["sized"].sum())

    @cached_property
    def digest(self) -> str:
        """Names the content as it is sharded: the digest of the shards' digests.

        The same images in other shards, or in another order, have another digest.
        """
        return digest_of([[record.name, record.digest] for record in self.records.values()])

    def keys(self, split: str, source: str | None = None) -> tuple[str, ...]:
        """The keys of one split, such as "train", sorted; of all sources, or of one."""
        keys: list[str] = []
        for rows in self.iter_rows("key", "split", "source"):
            chosen = rows["split"] == split
            if source is not None:
                chosen &= sources_of(rows) == source
            keys += rows.loc[chosen, "key"].tolist()
        return tuple(sorted(keys))

    def rows(self, shard: str, *columns: str) -> pd.DataFrame:
        """The manifest of one shard, or some of its columns."""
        return as_frame(self._table(shard, columns))

    def captioned(self, shard: str) -> NDArray[np.bool_]:
        """Which of a shard's images have captions, in the manifest's order: [n] of bool."""
        there: NDArray[np.bool_] = (
            self._table(shard, ["captions"])["captions"].is_valid().to_numpy()
        )
        return there

    def _table(self, shard: str, columns: Sequence[str]) -> pa.Table:
        path = manifest_path(self.folder, shard)
        try:
            with path.open("rb") as file:
                table = read_arrow(file, columns or None)
        except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            raise self._damaged(path, error) from error
        if len(table) != self.records[shard].images:
            raise self._damaged(path, f"{len(table)} rows, not {self.records[shard].images}")
        return table

    def iter_rows(self, *columns: str) -> Iterator[pd.DataFrame]:
        """The manifest, or some of its columns, a shard at a time, in the shards' order."""
        for shard in self.shards:
            yield self.rows(shard, *columns)

    def shard_digest(self, shard: str) -> str:
        """Names what arrays are computed from: one shard's keys, images and captions."""
        return self.records[shard].content

    def images_in(self, shard: str) -> int:
        """How many images a shard has; no manifest is read."""
        return self.records[shard].images

    def images(self, shard: str) -> Iterator[tuple[str, bytes]]:
        """(key, the image file's bytes) of one shard, in the manifest's order."""
        rows = self.rows(shard, "key", "sha256").to_dict("records")
        for key, _, image in self._whole_files(shard, rows):
            yield key, image

    def some_images(self, shard: str, keys: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """(key, the image file's bytes) of a shard's images with these keys, and no other is read.

        In the manifest's order. Raises CorgiError where the tar is damaged.
        """
        rows, wanted = self.rows(shard, "key", "sha256").to_dict("records"), set(keys)
        chosen = [number for number, row in enumerate(rows) if row["key"] in wanted]
        ranges, path = self.ranges(shard), self.tar(shard)
        try:
            files = list(read_ranges(path, [ranges[number] for number in chosen]))
        except OSError as error:
            raise self._damaged(path, error) from error
        for number, image in zip(chosen, files, strict=True):
            self._check_bytes(shard, rows[number], image)
            yield rows[number]["key"], image

    def samples(self, *shards: str) -> Iterator[Sample]:
        """Every image with what the manifest says of it, shard by shard; of all, or of `shards`."""
        for shard in shards or self.shards:
            rows = self.rows(shard, "key", "sha256", *ABOUT).to_dict("records")
            files = self._whole_files(shard, rows)
            for row, (key, suffix, image) in zip(rows, files, strict=True):
                yield Sample(key, image, suffix=suffix, **{name: row[name] for name in ABOUT})

    def tar(self, shard: str) -> Path | UPath:
        """The tar that holds a shard's images.

        Raises CorgiError where it was registered by reference and is gone, or has changed since.
        """
        record = self.records[shard]
        if record.outside is None:
            return tar_path(self.folder, shard)
        path = UPath(record.outside.path)
        if not path.exists():
            raise CorgiError(
                f"{path}, which is registered by reference, is not there any more",
                f"bring it back, or {_AGAIN}",
            )
        if not record.outside.is_unchanged(record.bytes):
            raise CorgiError(
                f"{path}, which is registered by reference, has changed since",
                f"bring the old one back, or {_AGAIN}",
            )
        return path

    def ranges(self, shard: str) -> list[tuple[int, int]]:
        """Where each image file lies in the shard's `tar`: its start and its size in bytes.

        In the manifest's order. Raises CorgiError where the tar is damaged.
        """
        if self.records[shard].outside is not None:
            return [(start, size) for _, (start, size) in self._members(shard)]
        path = self.tar(shard)
        try:
            with path.open("rb") as file:
                found = list(image_members(file))
        except (OSError, tarfile.TarError) as error:
            raise self._damaged(path, error) from error
        if [key for key, _, _ in found] != self.rows(shard, "key")["key"].tolist():
            raise self._damaged(path, "it has other images than its manifest")
        return [(member.offset_data, member.size) for _, _, member in found]

    def _whole_files(
        self, shard: str, rows: Sequence[Mapping[Hashable, Any]]
    ) -> Iterator[tuple[str, str, bytes]]:
        """What `_files` yields, each file with the SHA-256 that the manifest's row has for it.

        Raises CorgiError for another one: a disk, a copy or DVC's remote has changed the tar.
        """
        for row, file in zip_longest(rows, self._files(shard)):
            if row is None or file is None or row["key"] != file[0]:
                raise self._damaged(self.tar(shard), "it has other images than its manifest")
            self._check_bytes(shard, row, file[2])
            yield file

    def _check_bytes(self, shard: str, row: Mapping[Hashable, Any], image: bytes) -> None:
        if hashlib.sha256(image).hexdigest() != row["sha256"]:
            why = f"the image {row['key']} has other bytes than the one that was stored"
            raise self._damaged(self.tar(shard), why)

    def _files(self, shard: str) -> Iterator[tuple[str, str, bytes]]:
        """(key, suffix, bytes) of each file of one shard; CorgiError where it is damaged."""
        path = tar_path(self.folder, shard)
        try:
            if self.records[shard].outside is not None:
                yield from self._files_outside(shard)
                return
            with path.open("rb") as file:
                yield from read_shard(file)
        except (OSError, tarfile.TarError) as error:
            raise self._damaged(path, error) from error

    def _files_outside(self, shard: str) -> Iterator[tuple[str, str, bytes]]:
        """What `_files` yields, of a tar that was registered by reference."""
        names, ranges = zip(*self._members(shard), strict=True)
        keys = self.rows(shard, "key")["key"]
        for key, found in zip(keys, read_members(self.tar(shard), names, ranges), strict=True):
            yield key, *found

    def _members(self, shard: str) -> list[tuple[str, tuple[int, int]]]:
        """The names and ranges of the images in a tar that was registered by reference."""
        described = read_record(self.folder, shard)
        assert described is not None, f"the manifest of {shard} has no record"
        if "ranges" not in described.made_from:
            path = self.tar(shard)
            raise CorgiError(f"{path} was registered by an older version of Corgi", _AGAIN)
        return [
            (name, (start, size))
            for name, (start, size) in zip(
                described.made_from["members"], described.made_from["ranges"], strict=True
            )
        ]

    def _damaged(self, path: Path | UPath, why: Exception | str) -> CorgiError:
        if isinstance(why, Exception) and (explained := explained_read_error(why, path)):
            return explained
        reason = (isinstance(why, OSError) and why.strerror) or why
        return CorgiError(
            f"{path} is missing or damaged ({reason})",
            f"bring that file back, or remove {self.folder} and make it again",
        )

    def __reduce__(self) -> tuple[type[Dataset], tuple[Path | UPath, int]]:
        return (type(self), (self.folder, self.recomputed))

    def __len__(self) -> int:
        return sum(record.images for record in self.records.values())


def is_dataset(folder: Path | UPath) -> bool:
    """Whether `folder` holds a whole dataset."""
    return (published(folder) / INDEX).exists()


def sources_of(manifest: pd.DataFrame) -> pd.Series[str]:
    """Each row's source by name: the first word of the column, without its licence."""
    return manifest["source"].str.split(n=1).str[0]


def caption_of(captions: Sequence[str] | None) -> str | None:
    """The one caption that represents an image: its first; None for an image without captions.

    Whatever counts images (evaluation, grids, experiments) takes each image once, by this caption;
    only training samples among all of them.
    """
    return captions[0] if captions else None


@contextmanager
def whole_dataset(
    folder: Path | UPath, source: Path | UPath | None = None
) -> Iterator[Path | UPath]:
    """Yield a temporary folder; on success it replaces `folder`, on failure nothing is left.

    Raises CorgiError where `folder` holds what Corgi did not write, where it is or contains the
    `source` that is being read, and where the disk is full or may not be written.
    """
    if source is not None:
        check_apart(source, folder)
    with writing(folder), atomic_folder(folder) as temporary:
        yield temporary


def check_dataset_folder(folder: Path | UPath) -> None:
    """Raise CorgiError where `whole_dataset` would refuse to write `folder`."""
    with writing(folder):
        check_replaceable(folder)


@contextmanager
def writing(folder: Path | UPath) -> Iterator[None]:
    """Turn what the system says against writing `folder` into a CorgiError."""
    try:
        yield
    except OSError as error:
        raise CorgiError(
            f"cannot write {folder} ({error.strerror or error})",
            "free space there, or choose a folder that you may write to, by CORGI_DATA",
        ) from error


def check_apart(source: Path | UPath, folder: Path | UPath) -> None:
    """Raise CorgiError where replacing `folder` would remove the `source` that is being read."""
    source, folder = _followed(source), _followed(folder)
    if folder in (source, *source.parents):
        raise CorgiError(
            f"{source} is being read, and writing {folder} would replace it",
            "choose another --name, or copy the data elsewhere first",
        )


def _followed(path: Path | UPath) -> Path | UPath:
    """The absolute path behind all links."""
    return Path(os.path.realpath(str(path))) if is_local(path) else path


def write_dataset(folder: Path | UPath, samples: Iterable[Sample], shard_size: int) -> Dataset:
    """Write `samples`, each with its split, to `folder`, whole or not at all."""
    stream, keys = iter(samples), set[str]()
    records: list[ShardRecord] = []
    with whole_dataset(folder) as temporary:
        while shard := list(islice(stream, shard_size)):
            records.append(write_samples(temporary, f"{len(records):05d}", shard))
            for sample in shard:
                if sample.key in keys:
                    raise two_images(sample.key)
                keys.add(sample.key)
        write_index(temporary, records)
    return Dataset.load(folder)


def write_samples(folder: Path | UPath, name: str, samples: Iterable[Sample]) -> ShardRecord:
    """Write one shard, sorted by key, and its manifest, which comes last and says it is whole."""
    ordered = sorted(samples, key=lambda sample: sample.key)
    return finish_shard(folder, name, *write_images(folder, name, ordered))


def write_images(
    folder: Path | UPath, name: str, samples: Iterable[Sample]
) -> tuple[list[Row], int]:
    """Write one shard's tar of samples that come sorted by key, one of them in memory at a time.

    Returns the manifest's rows and the tar's size in bytes, for `finish_shard`.
    """
    rows: list[Row] = []

    def noted() -> Iterator[Sample]:
        for sample in samples:
            rows.append(row_of(sample, name))
            yield sample

    return rows, write_shard(tar_path(folder, name), noted())


def finish_shard(
    folder: Path | UPath, name: str, rows: list[Row], size: int, **made_from: Any
) -> ShardRecord:
    """Write the manifest of a shard whose tar is there: the shard is whole."""
    record = ShardRecord.of(name, rows, size, made_from)
    write_manifest(folder, rows, record)
    return record


def write_index(folder: Path | UPath, records: Iterable[ShardRecord], **about: Any) -> None:
    """Write `dataset.json`, which makes the shards already in `folder` a dataset.

    Shards without images are no part of it. Nothing is written where it would not change.
    """
    shards = [asdict(record) for record in records if record.images]
    for shard in shards:
        del shard["made_from"]
    index = {"format": FORMAT, "shards": shards} | about
    path = folder / INDEX
    if not path.exists() or read_json(path) != index:
        write_json(path, index)
