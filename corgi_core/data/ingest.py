"""Ingest: whatever a reader finds becomes shards and a manifest, the images' bytes untouched.

Data that are new are written as new shards after those that are there, which are never rewritten.
"""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple, replace
from hashlib import sha256
from heapq import nsmallest
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
from upath import UPath

from corgi_core.config import DataSettings
from corgi_core.data.addition import Addition
from corgi_core.data.dataset import (
    INDEX,
    Dataset,
    check_apart,
    is_dataset,
    whole_dataset,
    writing,
)
from corgi_core.data.formats import READERS, WITHOUT_PATH, Skipped
from corgi_core.data.formats.conventions import UNREADABLE, can_pass
from corgi_core.data.formats.walk import reading_only
from corgi_core.data.shards import Sample
from corgi_core.data.skipped import SkippedFile, read_skipped, skipped_path
from corgi_core.data.splits import rank_of
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of, is_local, remove_file
from corgi_core.io.folders import joining_folder
from corgi_core.io.locks import exclusive_lock
from corgi_core.io.markers import files_below
from corgi_core.io.read_errors import explained_read_error, is_no_fault_of_the_file
from corgi_core.progress import track

OF_ONE_INGEST = (
    "passed_over",
    "failed",
    "first_shard",
)  # what another one of the same data changes


def ingest(
    source: str,
    path: str | None,
    folder: Path | UPath,
    settings: DataSettings,
    seed: int,
    caption_column: str | None = None,
    *,
    replaced: bool = False,
    by_reference: bool = False,
) -> Dataset:
    """Read `path` with the reader named `source` and add what is new to the dataset in `folder`.

    An image that is there already, by its bytes or its key, is passed over. Shards that are there
    stay as they are, to the byte. A group stays in the split that it is in.

    Args:
        source: A key of `READERS`.
        path: What to read; None for a reader that brings its own data.
        folder: Where the raw dataset is, or will be; `skipped/` in it names what was passed over.
        settings: How many images to take, the shards' size, the share that is held out.
        seed: Of the limit and the split.
        caption_column: Where the captions are; None for the usual columns.
        replaced: Whether to start anew: `folder` is then replaced as a whole.
        by_reference: Whether tars stay where they are, each a shard, and are read there.

    Returns:
        The dataset in `folder`.

    Raises:
        CorgiError: The reader is unknown, the path is missing or unreadable, there are no images or
            no such caption column, tars cannot be read by reference, or `folder` may not be
            written. It is then as it was.
    """
    if source not in READERS:
        raise CorgiError(f"there is no format {source!r}", f"choose one of {', '.join(READERS)}")
    data_path = _data_path(source, path)
    present = None if replaced else _present(folder)
    limit = settings.limit
    chosen = None if limit is None else _chosen(source, data_path, limit, seed, caption_column)
    about = {
        "format": source,
        "path": None if data_path is None else str(data_path),
        "caption_column": caption_column,
        "by_reference": by_reference,
        "limited": limit is not None,
    }
    with _new_files(folder, data_path, present) as temporary:
        with _skipped_file(temporary, present) as skipped:
            samples = _read(source, data_path, caption_column, skipped)
            if chosen is not None:
                samples = (sample for sample in samples if sample.key in chosen)
            added = Addition(temporary, present, settings, seed, skipped)
            added.take(track(samples, "reading images", 0), by_reference)
            if not added.found:
                raise CorgiError(
                    f"{path or source} holds no images{skipped.first}",
                    f"check the path and the format (now {source}; known: {', '.join(READERS)})",
                )
        _finish(added, about)
    return Dataset.load(folder)


def retry_failed(folder: Path | UPath, settings: DataSettings, seed: int) -> Dataset:
    """Read again what earlier ingests passed over for a reason that can pass, and nothing else.

    Such are files, tars and folders that could not be read, and tars that were not whole. What is
    read now is added as by `ingest`; what fails again may be tried again.

    Args:
        folder: Where the raw dataset is.
        settings: The shards' size, the share that is held out.
        seed: Of the split.

    Raises:
        CorgiError: nothing has failed, or it was read with a limit, or cannot be read as before.
    """
    ingests = Dataset.load(folder).ingests
    failed = [number for number, about in enumerate(ingests) if about["failed"]]
    if not failed:
        raise CorgiError(
            f"no ingest into {folder} has failed to read anything", "ingest new data by their path"
        )
    if any(ingests[number]["limited"] for number in failed):
        raise CorgiError(
            "what was read with a limit cannot be read again in part", "ingest the same data again"
        )
    for number in failed:
        _retry(Dataset.load(folder), number, settings, seed)
    return Dataset.load(folder)


def _retry(present: Dataset, number: int, settings: DataSettings, seed: int) -> None:
    """Read again what one earlier ingest could not read."""
    about = present.ingests[number]
    names = [
        path
        for part in read_skipped(skipped_path(present.folder, number))
        for path in part.loc[part["reason"].map(can_pass), "path"]
    ]
    path = None if about["path"] is None else UPath(about["path"])
    with _new_files(present.folder, path, present) as temporary:
        with _skipped_file(temporary, present) as skipped, reading_only(names) as wanted:
            samples = _read(
                about["format"], path, about["caption_column"], skipped, lambda s: s.path in wanted
            )
            added = Addition(temporary, present, settings, seed, skipped)
            added.take(track(samples, "reading images", 0), about["by_reference"])
            for name in wanted.not_found():
                skipped.add(name, UNREADABLE, "it is not there any more")
        _finish(added, about, number)


def _finish(added: Addition, about: dict[str, Any], retried: int | None = None) -> None:
    """Write the index of what was added; no failure of an earlier ingest is counted twice.

    `retried`: the number of the ingest whose failures were read again; those that had the same
    format and path otherwise.
    """
    ingests = [dict(each) for each in added.present.ingests] if added.present else []
    if added.present is not None:
        _check_unchanged(added.present)  # other machines hold no lock of this one
    about = {key: value for key, value in about.items() if key not in OF_ONE_INGEST}
    for number, earlier in enumerate(ingests):
        if number == retried or (retried is None and about.items() <= earlier.items()):
            earlier["failed"] = 0
    skipped = added.skipped
    found = {
        "passed_over": skipped.count, "failed": skipped.failed, "first_shard": added.first,
    }  # fmt: skip
    added.finish([*ingests, about | found])


def _present(folder: Path | UPath) -> Dataset | None:
    """The dataset to add to, if there is one; CorgiError where it is of an older version."""
    with writing(folder):
        there = is_dataset(folder) or (folder / "manifest.parquet").exists()
    return Dataset.load(folder) if there else None


@contextmanager
def _new_files(
    folder: Path | UPath, source: Path | UPath | None, present: Dataset | None
) -> Iterator[Path | UPath]:
    """Yield a temporary folder whose files become the dataset in `folder`, or join it.

    One process of this machine at a time.
    """
    written = whole_dataset(folder, source) if present is None else _joining(present, source)
    with _only_one(folder), written as temporary:
        yield temporary


def _only_one(folder: Path | UPath) -> AbstractContextManager[None]:
    """Hold the lock on writing a local `folder`; the lock file is not in it, as data are."""
    if not is_local(folder):
        return nullcontext()
    name = f"corgi-{os.getuid()}-{digest_of(os.path.realpath(str(folder)))}.lock"
    busy = f"another process is adding to {folder}"
    return exclusive_lock(Path(tempfile.gettempdir()) / name, busy)


@contextmanager
def _joining(present: Dataset, source: Path | UPath | None) -> Iterator[Path | UPath]:
    """Yield a temporary folder whose files join the dataset's, `dataset.json` last."""
    folder = present.folder
    if source is not None:
        check_apart(source, folder)
    with writing(folder):
        _check_unchanged(present)
        _remove_unlisted(present)
        with joining_folder(folder, INDEX) as temporary:
            yield temporary


def _check_unchanged(present: Dataset) -> None:
    """Raise CorgiError where another process has written the dataset since it was loaded."""
    try:
        unchanged = Dataset(present.folder).index == present.index
    except FileNotFoundError:
        unchanged = False
    if not unchanged:
        raise CorgiError(
            f"another process has changed {present.folder} meanwhile", "ingest the data again"
        )


def _remove_unlisted(dataset: Dataset) -> None:
    """Remove what an ingest that was killed as it moved its files has left in vain."""
    stems = {"skipped": {f"{step:05d}" for step in range(len(dataset.ingests))}}
    for name in files_below(dataset.folder):
        kind, _, file = name.partition("/")
        if kind not in ("shards", "manifest", "skipped"):
            continue
        if PurePath(file).stem not in stems.get(kind, dataset.records.keys()):
            remove_file(dataset.folder / name)


def _skipped_file(temporary: Path | UPath, present: Dataset | None) -> SkippedFile:
    return SkippedFile(skipped_path(temporary, len(present.ingests) if present else 0))


def iter_skipped(raw: Dataset, last: bool = False) -> Iterator[pd.DataFrame]:
    """What all ingests or the last one passed over, in parts: path, reason, detail."""
    for step in range(len(raw.ingests))[-1 if last else 0 :]:
        yield from read_skipped(skipped_path(raw.folder, step))


def _data_path(source: str, path: str | None) -> UPath | None:
    """The path to read, absolute; CorgiError where the reader needs one."""
    if path is None and source not in WITHOUT_PATH:
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
    skipped: SkippedFile | None = None,
    counts: Callable[[Skipped], bool] = lambda _: True,
) -> Iterator[Sample]:
    """The reader's samples, made storable; `skipped` notes what it passes over, if it counts."""
    try:
        for found in READERS[source](path, caption_column):
            if isinstance(found, Sample):
                yield _storable(found)
            elif skipped is not None and counts(found):
                skipped.add(*(_valid(value) for value in astuple(found)))
    except OSError as error:
        where = _valid(str(error.filename or path))
        if is_no_fault_of_the_file(error) and (said := explained_read_error(error, where)):
            raise said from error
        raise CorgiError(
            f"cannot read {where}: {error.strerror or error}",
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
