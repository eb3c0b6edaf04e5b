"""A folder of images, as Hugging Face's imagefolder has it.

Captions, where there are any, are in `metadata.jsonl` or `metadata.csv`, at the top or in any
folder below: one row an image, `file_name` relative to that file. Folders called train, test or
validation give the split; validation counts as test.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from posixpath import normpath
from typing import Any

from upath import UPath

from corgi_core.data.formats.conventions import (
    CAPTION_COLUMNS,
    IMAGE_SUFFIXES,
    caption_column_of,
    captions_in,
    split_among,
)
from corgi_core.data.shards import Sample
from corgi_core.errors import CorgiError


def read(path: Path | UPath | None, caption_column: str | None = None) -> Iterator[Sample]:
    """Every image below `path`, by its path there; hidden files and folders are passed over."""
    if path is None or not path.is_dir():
        raise CorgiError(f"there is no folder {path}", "check the path")
    named = ((_relative(file, path), file) for file in path.rglob("*"))
    files = {name: file for name, file in named if not _is_hidden(name) and file.is_file()}
    captions = _captions(files, caption_column)
    if caption_column is not None and not captions:
        raise CorgiError(
            f"{path} has no metadata.jsonl or metadata.csv to hold the column {caption_column!r}",
            "add one with the columns file_name and " + caption_column,
        )
    images = sorted(name for name in files if _suffix(name) in IMAGE_SUFFIXES)
    if absent := sorted(set(captions) - set(images)):
        raise CorgiError(
            f"the metadata in {path} names {absent[0]}, which is not an image there "
            f"({len(absent)} such names)",
            "correct file_name, which is relative to the metadata file",
        )
    stems = Counter(_stem(name) for name in images)
    for name in images:
        stem = _stem(name)
        alone = stems[stem] == 1
        yield Sample(
            key=stem if alone else f"{stem}-{sha256(name.encode()).hexdigest()[:8]}",
            image=files[name].read_bytes(),
            captions=captions.get(name),
            split=split_among(name.split("/")[:-1]),
            source=path.name,
            group=stem,
            suffix=_suffix(name),
        )


def _relative(file: Path | UPath, folder: Path | UPath) -> str:
    return file.as_posix().removeprefix(folder.as_posix()).lstrip("/")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _stem(name: str) -> str:
    """The key of an image's name: without suffix, and without dots in its last part."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.rpartition('.')[0].replace('.', '_')}"


def _captions(
    files: dict[str, Path | UPath], caption_column: str | None
) -> dict[str, list[str] | None]:
    """The captions of every image that a metadata file names, by the image's name."""
    found: dict[str, list[str] | None] = {}
    for name in sorted(files):
        folder, slash, last = name.rpartition("/")
        if last not in ("metadata.jsonl", "metadata.csv"):
            continue
        rows = _rows(files[name])
        columns = sorted({column for row in rows for column in row})
        column = _column(files[name], columns, caption_column) if rows else ""
        for row in rows:
            if not row.get("file_name"):
                raise CorgiError(f"{files[name]} has a row without file_name: {row}", "complete it")
            image = normpath(f"{folder}{slash}{row['file_name']}")
            captions = captions_in(row, column)
            found[image] = (found.get(image) or []) + captions if captions else found.get(image)
    return found


def _column(file: Path | UPath, columns: list[str], wanted: str | None) -> str:
    present = f"it has {', '.join(columns)}"
    if "file_name" not in columns:
        raise CorgiError(f"{file} has no column 'file_name'; {present}", "name each row's image")
    column = caption_column_of(columns, wanted)
    if column is None:
        missing = " or ".join(map(repr, CAPTION_COLUMNS)) if wanted is None else repr(wanted)
        raise CorgiError(
            f"{file} has no caption column {missing}; {present}",
            "name the column that holds the captions by --caption-column",
        )
    return column


def _rows(file: Path | UPath) -> list[dict[str, Any]]:
    """The rows of a metadata file; bytes that are not UTF-8 become U+FFFD, for the gate to see."""
    text = file.read_bytes().decode("utf-8-sig", errors="replace")
    if file.name.endswith(".csv"):
        try:
            return list(csv.DictReader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise CorgiError(f"{file} is not a CSV table ({error})", "correct that file") from error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise CorgiError(
                    f"{file}, line {number}: not a JSON object ({error})", "correct that line"
                ) from error
    return rows
