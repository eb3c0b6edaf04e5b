"""One shard's manifest: its rows as Parquet and, in the file's metadata, the shard's record.

A shard's manifest is written after its tar, so its presence means that the shard is whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from corgi_core.data.parquet import Row, opened, write_table
from corgi_core.io.files import digest_of, digest_of_file
from corgi_core.io.read_errors import explained_read_error

MANIFEST = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),  # "00000"
        ("sha256", pa.string()),  # of the image file as stored
        ("width", pa.int32()),  # pixels; null where no header says it, or the file is an embedding
        ("height", pa.int32()),
        ("captions", pa.list_(pa.string())),  # null: image-only
        ("split", pa.string()),  # "train", "validation" or "test"
        ("source", pa.string()),
        ("group", pa.string()),
    ]
)
_RECORD = b"corgi"  # the key in the file's metadata


@dataclass(frozen=True)
class Count:
    """How many images a shard has of one source in one split."""

    source: str
    split: str
    images: int
    sized: int  # whose headers say a width: pictures, not embeddings
    captioned: int  # images with captions
    captions: int


@dataclass(frozen=True)
class OutsideTar:
    """A tar that lies outside the dataset and is read where it is, as it was when registered."""

    path: str
    modified: int  # nanoseconds since 1970; 0 where the storage does not say
    digest: str

    @classmethod
    def of(cls, path: Path | UPath) -> OutsideTar:
        """The tar at `path` as it is now."""
        return cls(str(path), _modified(path), digest_of_file(path))

    def is_unchanged(self, size: int) -> bool:
        """Whether it is as it was, of `size` bytes; one of another time is read as a whole."""
        path = UPath(self.path)
        if path.stat().st_size != size:
            return False
        return _modified(path) == self.modified or digest_of_file(path) == self.digest


def _modified(path: Path | UPath) -> int:
    return int(getattr(path.stat(), "st_mtime_ns", 0))


@dataclass(frozen=True)
class ShardRecord:
    """Counts, size and digests of a shard, known without reading its images."""

    name: str
    images: int
    content: str  # digest of keys, images and captions: what arrays are computed from
    digest: str  # of all columns
    counts: tuple[Count, ...]
    bytes: int = 0  # of the tar
    outside: OutsideTar | None = None  # the tar, where it is not the dataset's own
    # What decides whether a gated shard is up to date; the images' names in a tar outside.
    made_from: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        rows: list[Row],
        size: int,
        made_from: dict[str, Any] | None = None,
        outside: OutsideTar | None = None,
    ) -> ShardRecord:
        """The record of a shard with these rows in a tar of `size` bytes."""
        columns = {column: [row[column] for row in rows] for column in MANIFEST.names}
        content = digest_of(*(columns[column] for column in ("key", "sha256", "captions")))
        others = ("width", "height", "split", "source", "group")
        return cls(
            name=name,
            images=len(rows),
            content=content,
            digest=digest_of(content, *(columns[column] for column in others)),
            counts=tuple(_counts_of(rows)),
            bytes=size,
            outside=outside,
            made_from=made_from or {},
        )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ShardRecord:
        """What `asdict` made of a record."""
        counts = tuple(Count(**count) for count in value["counts"])
        outside = value["outside"] and OutsideTar(**value["outside"])
        return cls(**{**value, "counts": counts, "outside": outside})


def _counts_of(rows: Iterable[Row]) -> Iterable[Count]:
    found: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        count = found.setdefault((row["source"], row["split"]), [0, 0, 0, 0])
        captions = row["captions"]
        added = (1, row["width"] is not None, captions is not None, len(captions or ()))
        for position, more in enumerate(added):
            count[position] += more
    return (Count(*named, *found[named]) for named in sorted(found))


def manifest_path(folder: Path | UPath, shard: str) -> Path | UPath:
    """Where a shard's manifest is."""
    return folder / "manifest" / f"{shard}.parquet"


def tar_path(folder: Path | UPath, shard: str) -> Path | UPath:
    """Where a shard's images are."""
    return folder / "shards" / f"{shard}.tar"


def write_manifest(folder: Path | UPath, rows: list[Row], record: ShardRecord) -> None:
    """Write one shard's manifest, whole or not at all."""
    schema = MANIFEST.with_metadata({_RECORD: json.dumps(asdict(record)).encode()})
    write_table(manifest_path(folder, record.name), rows, schema)


def read_record(folder: Path | UPath, shard: str) -> ShardRecord | None:
    """The record in a shard's manifest; None where there is no manifest of this version.

    Raises CorgiError where there may be one, and it cannot be read.
    """
    try:
        with opened(manifest_path(folder, shard)) as file:
            metadata = pq.read_schema(file).metadata or {}
        return ShardRecord.from_json(json.loads(metadata[_RECORD]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        if (explained := explained_read_error(error, manifest_path(folder, shard))) is not None:
            raise explained from error
        return None
