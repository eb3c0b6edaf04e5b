"""CC3M, CC12M, LAION and others as img2dataset writes them: tars, each with a Parquet beside it.

`00000.tar` has KEY.jpg, KEY.txt and KEY.json of what was downloaded. `00000.parquet` has a row for
every URL: key, caption, status ("success", or what failed) and error_message; `00000_stats.json`
counts them. Rows without an image are reported with their reason. The captions are those of the
tar, or else of the Parquet. A shard that cannot be read is reported, and the others are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from upath import UPath

from corgi_core.data.formats.conventions import (
    Captions,
    Skipped,
    caption_column_of,
    captions_in,
)
from corgi_core.data.formats.layouts import wrong_folder
from corgi_core.data.formats.tables import opened_parquet
from corgi_core.data.formats.walk import is_wanted
from corgi_core.data.formats.webdataset_shards import TarReader, shards_at, tar_name
from corgi_core.data.shards import Sample
from corgi_core.errors import CorgiError
from corgi_core.io.read_errors import is_no_fault_of_the_file

SUCCESS = "success"
_ABOUT_A_TAR = re.compile(r"(?:.+/)?\d+(\.parquet|_stats\.json)")
_BATCH = 1024  # rows of a Parquet, read at once


class _Row(NamedTuple):
    """What the Parquet says of a key."""

    status: str
    error: str
    captions: Captions


def read(
    path: Path | UPath | None, caption_column: str | None = None
) -> Iterator[Sample | Skipped]:
    """Every image of the shards at `path`: a tar, a folder of them, or a pattern of tars.

    Keys and splits are those of the reader of WebDataset shards. One shard's rows are in memory.
    """
    shards, skipped = _shards(path)
    yield from skipped
    tars = TarReader(caption_column, refuse_repeated=False)
    for folder, shard in shards:
        rows: dict[str, _Row] = {}
        stem, below = shard.name.partition(".")[0], f"{folder}/" if folder else ""
        table, table_name = shard.parent / f"{stem}.parquet", f"{below}{stem}.parquet"
        if not (is_wanted(tar_name(folder, shard)) or is_wanted(table_name)):
            continue
        yield from _read_rows(table, table_name, caption_column, rows, tars.fields)
        try:
            for found in tars.samples(folder, shard):
                if isinstance(found, Sample):
                    row = rows.pop(found.key.rpartition("/")[2], None)
                    yield found if row is None else _captioned(found, row)
                else:
                    yield found
        except (CorgiError, OSError) as error:
            if is_no_fault_of_the_file(error):
                raise
            lost = [key for key, row in rows.items() if row.status == SUCCESS]
            for key in lost:
                del rows[key]
            detail = f"{len(lost)} images are lost with it; {error}"
            yield Skipped(f"{below}{shard.name}", "a tar that cannot be read", detail)
        for key, row in rows.items():
            if row.status == SUCCESS:
                where, remedy = (
                    f"{below}{shard.name}: {key}",
                    "run img2dataset again for this shard",
                )
                yield Skipped(where, "downloaded, but not in the tar", remedy)
            else:
                yield Skipped(f"{table_name}: {key}", row.status, row.error)
    tars.check_column(path)


def _shards(path: Path | UPath | None) -> tuple[list[tuple[str, Path | UPath]], list[Skipped]]:
    """The tars, and the files that are neither a tar nor tell of one that is there."""
    try:
        shards, others = shards_at(path)
    except CorgiError:
        if path is not None and path.is_dir():
            raise wrong_folder(path, "img2dataset", "holds no tars") from None
        raise
    there = {shard.as_posix() for _, shard in shards}
    skipped = []
    for other in others:
        if not (match := _ABOUT_A_TAR.fullmatch(other.path)):
            skipped.append(other)
        elif path is not None and path.is_dir() and match[1] == ".parquet":
            tar = (path / other.path).with_suffix(".tar")
            if tar.as_posix() not in there:
                remedy = f"copy {tar.name} beside it, or run img2dataset again"
                skipped.append(Skipped(other.path, "a Parquet without its tar", remedy))
    return shards, skipped


def _read_rows(
    table: Path | UPath,
    name: str,
    caption_column: str | None,
    rows: dict[str, _Row],
    fields: set[str],
) -> Iterator[Skipped]:
    """Add the Parquet's rows to `rows`, by key; yields what is wrong with it, under its `name`."""
    if not table.exists():
        yield Skipped(name, "a Parquet that is not there", "what was not downloaded is unknown")
        return
    try:
        with opened_parquet(table) as parquet:
            present = parquet.schema_arrow.names
            fields.update(present)
            if "key" not in present:
                yield Skipped(name, "a Parquet without keys", f"it has {', '.join(present)}")
                return
            captions = caption_column_of(present, caption_column)
            wanted = ("key", "status", "error_message", captions)
            columns = [column for column in wanted if column in present]
            for batch in parquet.iter_batches(_BATCH, columns=columns, use_threads=False):
                for record in batch.to_pylist():
                    key = str(record["key"])
                    if key in rows:
                        yield Skipped(f"{name}: {key}", "a key that is there before")
                        continue
                    rows[key] = _Row(
                        str(record.get("status", SUCCESS) or "no status"),
                        str(record.get("error_message") or ""),
                        captions_in(record[captions]) if captions else Captions(None),
                    )
    except (CorgiError, OSError) as error:
        if is_no_fault_of_the_file(error):
            raise
        yield Skipped(name, "a Parquet that cannot be read", str(error))


def _captioned(sample: Sample, row: _Row) -> Sample:
    """The sample, with the Parquet's captions where its tar has none, or blank ones."""
    if any(caption.strip() for caption in sample.captions or []):
        return sample
    return replace(sample, captions=row.captions.texts or sample.captions)
