"""Ingest: whatever a reader finds becomes shards and a manifest, the images' bytes untouched."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from heapq import nsmallest
from pathlib import Path

import pandas as pd
import pyarrow as pa
from upath import UPath

from corgi_core.config import DataSettings
from corgi_core.data.dataset import Dataset, read_table, whole_dataset, write_manifest, write_table
from corgi_core.data.formats import READERS
from corgi_core.data.shards import Sample, write_shards
from corgi_core.data.splits import fill_in_splits, rank_of
from corgi_core.errors import CorgiError
from corgi_core.io.files import is_local
from corgi_core.progress import track

SKIPPED = pa.schema([(name, pa.string()) for name in ("path", "reason", "detail")])


def ingest(
    source: str,
    path: str | None,
    folder: Path | UPath,
    settings: DataSettings,
    seed: int,
    caption_column: str | None = None,
) -> Dataset:
    """Read `path` with the reader named `source` and write the raw dataset to `folder`.

    Args:
        source: A key of `READERS`.
        path: What to read; None for a reader that brings its own data.
        folder: Replaced as a whole; `skipped.parquet` in it names what the reader passed over.
        settings: How many images to take, the shards' size, the share that is held out.
        seed: Of the limit and the split.
        caption_column: Where the captions are; None for the usual columns.

    Returns:
        The dataset in `folder`.

    Raises:
        CorgiError: The reader is unknown, the path is missing or unreadable, there are no images or
            no such caption column, or `folder` may not be replaced. It is then as it was.
    """
    if source not in READERS:
        raise CorgiError(f"there is no format {source!r}", f"choose one of {', '.join(READERS)}")
    data_path = _data_path(source, path)
    limit = settings.limit
    chosen = None if limit is None else _chosen(source, data_path, limit, seed, caption_column)
    skipped: list[dict[str, str]] = []
    with whole_dataset(folder, data_path) as temporary:
        samples = (
            sample
            for sample in track(
                _read(source, data_path, caption_column, skipped), "reading images", 0
            )
            if chosen is None or sample.key in chosen
        )
        rows = write_shards(temporary, samples, settings.shard_size)
        if not rows:
            why = f" ({skipped[0]['path']}: {skipped[0]['reason']})" if skipped else ""
            raise CorgiError(
                f"{path or source} holds no images{why}",
                f"check the path and the format (now {source}; known: {', '.join(READERS)})",
            )
        fill_in_splits(rows, settings.test_fraction, seed)
        write_table(temporary / "skipped.parquet", skipped, SKIPPED)
        write_manifest(temporary, rows)
    return Dataset.load(folder)


def skipped_of(raw: Dataset) -> pd.DataFrame:
    """What the reader passed over: path, reason, detail; empty for datasets of older versions."""
    path = raw.folder / "skipped.parquet"
    if not path.exists():
        return pd.DataFrame(columns=SKIPPED.names)
    with path.open("rb") as file:
        return read_table(file)


def _data_path(source: str, path: str | None) -> UPath | None:
    """The path to read, absolute; CorgiError where the reader needs one."""
    if path is None and source != "emoji":
        raise CorgiError(
            f"the format {source} needs a path", "name what to read: corgi ingest PATH --format …"
        )
    return None if path is None else path_to(path)


def path_to(path: str) -> UPath:
    """The path that a person names, absolute, ~ expanded; CorgiError where it is empty."""
    if not path.strip():
        raise CorgiError("the path is empty", "name what to read; . is the present folder")
    data_path = UPath(path)
    if is_local(data_path):
        return UPath(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111
    return data_path


def _read(
    source: str,
    path: UPath | None,
    caption_column: str | None,
    skipped: list[dict[str, str]] | None = None,
) -> Iterator[Sample]:
    """The reader's samples, made storable; what it passes over is appended to `skipped`."""
    try:
        for found in READERS[source](path, caption_column):
            if isinstance(found, Sample):
                yield _storable(found)
            elif skipped is not None:
                skipped.append({name: _valid(value) for name, value in vars(found).items()})
    except OSError as error:
        raise CorgiError(
            f"cannot read {_valid(str(error.filename or path))}: {error.strerror or error}",
            "check that it is there and that you may read it",
        ) from error


def _storable(sample: Sample) -> Sample:
    """The sample, its key, group and captions made such that tars and Parquet can hold them.

    Control characters and halves of surrogate pairs in a key become "_", with a hash of the key so
    that it stays apart from others; in a caption the latter become U+FFFD, for the gate to see.
    """
    captions = sample.captions and [_valid(caption) for caption in sample.captions]
    key, group = _legal(sample.key), _legal(sample.group)
    return replace(sample, key=key, group=group, captions=captions, source=_legal(sample.source))


def _legal(name: str) -> str:
    if name.isprintable():
        return name
    legal = "".join("_" if unicodedata.category(c) in ("Cc", "Cs") else c for c in name)
    if legal == name:
        return name
    return f"{legal}-{sha256(name.encode('utf-8', errors='surrogatepass')).hexdigest()[:8]}"


def _valid(text: str) -> str:
    """The text with U+FFFD for what UTF-8 cannot hold: halves of surrogate pairs."""
    return text.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace")


def _chosen(
    source: str, path: UPath | None, limit: int, seed: int, caption_column: str | None
) -> set[str]:
    """The keys of the `limit` images that come first by the rank of their group, then by key."""
    named = ((s.group, s.key) for s in _read(source, path, caption_column))
    first = nsmallest(limit, named, key=lambda pair: (rank_of(f"limit|{pair[0]}", seed), pair[1]))
    return {key for _, key in first}
