"""A dataset on disk: tar shards and one manifest, written whole or not at all.

<folder>/shards/00000.tar      WebDataset shards, see `shards`
<folder>/manifest.parquet      one row an image; its presence means "whole"
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from corgi_core.data.shards import Sample, read_shard, write_shards
from corgi_core.errors import CorgiError
from corgi_core.io.files import (
    DIGEST_LENGTH,
    atomic_file,
    atomic_folder,
    check_replaceable,
    digest_of,
    is_local,
)

MANIFEST = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),  # "00000"
        ("sha256", pa.string()),  # of the image file as stored
        ("width", pa.int32()),  # pixels; null where no header says it, or the file is an embedding
        ("height", pa.int32()),
        ("captions", pa.list_(pa.string())),  # null: image-only
        ("split", pa.string()),  # "train" or "test"
        ("source", pa.string()),
        ("group", pa.string()),
    ]
)


@dataclass(frozen=True)
class Dataset:
    """The dataset in `folder`; cheap to make and to pickle, as the folder is all that it holds."""

    folder: Path | UPath

    @classmethod
    def load(cls, folder: Path | UPath) -> Dataset:
        """The whole dataset in `folder`; a CorgiError where there is none."""
        if not (folder / "manifest.parquet").exists():
            raise CorgiError(
                f"{folder} holds no whole dataset: it has no manifest.parquet",
                "ingest the data (again), or name the folder that `corgi ingest` wrote",
            )
        return cls(folder)

    def save(self, folder: Path | UPath) -> None:
        """Copy the dataset to `folder`, whole or not at all; nothing to do when it is there."""
        copy_folder(self.folder, folder)

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """One row an image, by shard and key; columns as in `MANIFEST`, captions a list or None."""
        with (self.folder / "manifest.parquet").open("rb") as file:
            return read_table(file)

    @cached_property
    def _by_shard(self) -> dict[str, pd.DataFrame]:
        return {str(shard): rows for shard, rows in self.manifest.groupby("shard")}

    @property
    def shards(self) -> list[str]:
        """The shards' names in order: "00000", "00001" and so on."""
        return sorted(self._by_shard)

    @cached_property
    def digest(self) -> str:
        """Names the content (keys, images, captions, splits), whatever the shard layout."""
        sha = hashlib.sha256()
        columns = ["key", "sha256", "captions", "split"]
        for row in self.manifest.sort_values("key")[columns].itertuples(index=False):
            sha.update(json.dumps(row).encode())
        return sha.hexdigest()[:DIGEST_LENGTH]

    def keys(self, split: str, source: str | None = None) -> tuple[str, ...]:
        """The keys of one split, "train" or "test", sorted; of all sources, or of one."""
        chosen = self.manifest["split"] == split
        if source is not None:
            chosen &= sources_of(self.manifest) == source
        return tuple(sorted(self.manifest.loc[chosen, "key"]))

    def first_captions(self, split: str) -> dict[str, str]:
        """By key, the caption that stands for each image of one split (`caption_of`).

        Images without captions are left out.
        """
        rows = self.manifest[self.manifest["split"] == split]
        first = zip(rows["key"], map(caption_of, rows["captions"]), strict=True)
        return {key: caption for key, caption in first if caption is not None}

    def rows(self, shard: str) -> pd.DataFrame:
        """The manifest's rows of one shard."""
        return self._by_shard[shard]

    def shard_digest(self, shard: str) -> str:
        """Names one shard's content: its keys, images and captions."""
        rows = self.rows(shard)
        return digest_of(*(rows[column].tolist() for column in ("key", "sha256", "captions")))

    def images(self, shard: str) -> Iterator[tuple[str, bytes]]:
        """(key, the image file's bytes) of one shard, in the manifest's order."""
        with (self.folder / "shards" / f"{shard}.tar").open("rb") as file:
            for key, _, image in read_shard(file):
                yield key, image

    def samples(self) -> Iterator[Sample]:
        """Every image with what the manifest says of it, shard by shard."""
        for shard in self.shards:
            rows = self.rows(shard).to_dict("records")
            with (self.folder / "shards" / f"{shard}.tar").open("rb") as file:
                for row, (key, suffix, image) in zip(rows, read_shard(file), strict=True):
                    assert row["key"] == key, f"{shard}.tar and the manifest differ at {key}"
                    about = {name: row[name] for name in ("captions", "split", "source", "group")}
                    yield Sample(key, image, suffix=suffix, **about)

    def __reduce__(self) -> tuple[type[Dataset], tuple[Path | UPath]]:
        return (type(self), (self.folder,))

    def __len__(self) -> int:
        return len(self.manifest)


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
        _check_apart(source, folder)
    with _writing(folder), atomic_folder(folder) as temporary:
        yield temporary


def check_dataset_folder(folder: Path | UPath) -> None:
    """Raise CorgiError where `whole_dataset` would refuse to write `folder`."""
    with _writing(folder):
        check_replaceable(folder)


@contextmanager
def _writing(folder: Path | UPath) -> Iterator[None]:
    """Turn what the system says against writing `folder` into a CorgiError."""
    try:
        yield
    except OSError as error:
        raise CorgiError(
            f"cannot write {folder} ({error.strerror or error})",
            "free space there, or choose a folder that you may write to, by CORGI_DATA",
        ) from error


def _check_apart(source: Path | UPath, folder: Path | UPath) -> None:
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
    with whole_dataset(folder) as temporary:
        write_manifest(temporary, write_shards(temporary, samples, shard_size))
    return Dataset.load(folder)


def write_manifest(folder: Path | UPath, rows: list[dict[str, Any]]) -> None:
    """Write `manifest.parquet`, which makes the shards already in `folder` a dataset."""
    write_table(folder / "manifest.parquet", rows, MANIFEST)


def write_table(path: Path | UPath, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Write `rows` as Parquet; the same rows give the same bytes."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")


def read_arrow(file: Any) -> pa.Table:
    """A Parquet file, read in this thread alone.

    Arrow's own threads may still wait for a Python file when the interpreter ends, which then
    aborts a process that has done its work (apache/arrow #34314).
    """
    return pq.ParquetFile(file, pre_buffer=False).read(use_threads=False)


def read_table(file: Any) -> pd.DataFrame:
    """A Parquet file as a frame whose list columns hold Python lists (or None), not arrays."""
    table = read_arrow(file)
    return pd.DataFrame(
        {
            name: pd.Series(table[name].to_pylist(), dtype=object)
            if pa.types.is_list(table.schema.field(name).type)
            else table[name].to_pandas()
            for name in table.column_names
        }
    )


def copy_folder(source: Path | UPath, target: Path | UPath) -> None:
    """Copy a folder's files to `target`, whole or not at all; nothing where both are the same."""
    if source.absolute() == target.absolute():
        return
    with atomic_folder(target) as temporary:
        if is_local(source) and is_local(temporary):
            shutil.copytree(str(source), str(temporary), dirs_exist_ok=True)
            return
        origin = UPath(source)
        for file in sorted(path for path in origin.rglob("*") if path.is_file()):
            copy = temporary / str(file.relative_to(origin))
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
