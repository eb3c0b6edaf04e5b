"""Ingest: whatever a reader finds becomes shards and a manifest, the images' bytes untouched."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nsmallest
from pathlib import Path

from upath import UPath

from corgi_core.config import DataSettings
from corgi_core.data.dataset import Dataset, whole_dataset, write_manifest
from corgi_core.data.formats import READERS
from corgi_core.data.shards import Sample, write_shards
from corgi_core.data.splits import fill_in_splits, rank_of
from corgi_core.errors import CorgiError
from corgi_core.progress import track


def ingest(
    source: str,
    path: str | None,
    folder: Path | UPath,
    settings: DataSettings,
    seed: int,
    caption_column: str | None = None,
) -> Dataset:
    """Read `path` with the reader named `source` and write the raw dataset to `folder`.

    CorgiError, and `folder` as it was, for an unknown reader, a path that is missing or unreadable,
    data without images and a caption column that is not there.
    """
    if source not in READERS:
        raise CorgiError(f"there is no format {source!r}", f"choose one of {', '.join(READERS)}")
    place = None if path is None else UPath(path)
    if place is None and source != "emoji":
        raise CorgiError(
            f"the format {source} needs a path", "name what to read: corgi ingest PATH --format …"
        )
    kept = None if settings.limit is None else _chosen(source, place, settings.limit, seed)
    with whole_dataset(folder, place) as temporary:
        samples = (
            sample
            for sample in track(_read(source, place, caption_column), "reading images", 0)
            if kept is None or sample.key in kept
        )
        rows = write_shards(temporary, samples, settings.shard_size)
        if not rows:
            raise CorgiError(
                f"{path or source} holds no images",
                f"check the path and the format (now {source}; known: {', '.join(READERS)})",
            )
        fill_in_splits(rows, settings.test_fraction, seed)
        write_manifest(temporary, rows)
    return Dataset.load(folder)


def _read(source: str, place: UPath | None, caption_column: str | None) -> Iterator[Sample]:
    try:
        yield from READERS[source](place, caption_column)
    except OSError as error:
        raise CorgiError(
            f"cannot read {error.filename or place}: {error.strerror or error}",
            "check that it is there and that you may read it",
        ) from error


def _chosen(source: str, place: UPath | None, limit: int, seed: int) -> set[str]:
    """The keys of the `limit` images that come first by the rank of their group, then by key."""
    named = ((s.group, s.key) for s in _read(source, place, None))
    first = nsmallest(limit, named, key=lambda pair: (rank_of(f"limit|{pair[0]}", seed), pair[1]))
    return {key for _, key in first}
