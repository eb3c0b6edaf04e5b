"""Tables of captions: CSV, TSV, JSON, JSON lines and Parquet, row by row with its line.

A row that cannot be read is passed over and reported; the rows after it are read.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from corgi_core.data.formats.conventions import Skipped, column_among, text_of
from corgi_core.errors import CorgiError

FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "path")
_ROWS = 1024  # of a Parquet table, read at once
_DELIMITERS = {"tsv": "\t"}  # by suffix; other tables have what their header has


class Row(NamedTuple):
    """One row of a table."""

    where: str  # "metadata.csv, line 3"
    values: dict[str, Any]


def rows_of(
    file: Path | UPath, name: str, is_image: Callable[[str], bool]
) -> Iterator[Row | Skipped]:
    """The rows of a table.

    Args:
        file: The table.
        name: What to call it in reports: its path below the data's root.
        is_image: Whether a text is an image's name; such a text at the beginning of a line says
            that a row begins there, also after an unclosed quote.

    Raises:
        CorgiError: The file is no Parquet table, though it is called one.
    """
    suffix = file.name.rpartition(".")[2].lower()
    if suffix == "parquet":
        yield from _parquet_rows(file, name)
    elif suffix.startswith(("json", "ndjson")):
        yield from _json_rows(text_of(file.read_bytes()), name, suffix)
    elif (text := text_of(file.read_bytes())).lstrip().startswith("{"):
        yield from _json_rows(text, name, "jsonl")  # whatever the file is called
    else:
        yield from _delimited_rows(text, name, suffix, is_image)


@contextmanager
def opened_parquet(file: Path | UPath) -> Iterator[pq.ParquetFile]:
    """The open table; what Arrow says against it while it is read becomes a CorgiError."""
    with file.open("rb") as opened:
        try:  # in this thread: see `corgi_core.data.dataset.read_arrow`
            yield pq.ParquetFile(opened, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the system's, not a decompressor's
            raise CorgiError(
                f"{file} is no whole Parquet file ({error})", "copy or write it again"
            ) from error


def _parquet_rows(file: Path | UPath, name: str) -> Iterator[Row]:
    with opened_parquet(file) as table:
        numbers = count(1)
        for batch in table.iter_batches(_ROWS, use_threads=False):
            for values in batch.to_pylist():
                yield Row(f"{name}, row {next(numbers)}", values)


def _json_rows(text: str, name: str, suffix: str) -> Iterator[Row | Skipped]:
    if not suffix.startswith(("jsonl", "ndjson")):
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError):
            pass  # JSON lines, under another suffix
        else:
            for number, record in enumerate(_records_in(whole), start=1):
                yield _row_of(record, f"{name}, entry {number}")
            return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{name}, line {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Skipped(where, "not a JSON object", str(error))
                continue
            yield _row_of(record, where)


def _row_of(record: Any, where: str) -> Row | Skipped:
    if isinstance(record, dict):
        return Row(where, record)
    return Skipped(where, "not a JSON object", f"it is a {type(record).__name__}")


def _records_in(whole: Any) -> list[Any]:
    """The records of a JSON file: a list of them, columns, names with captions, or COCO's."""
    if not isinstance(whole, dict):
        return whole if isinstance(whole, list) else [whole]
    if isinstance(whole.get("images"), list) and isinstance(whole.get("annotations"), list):
        named = {image.get("id"): image.get("file_name") for image in whole["images"]}
        return [{**note, "file_name": named.get(note.get("image_id"))}
                for note in whole["annotations"]]  # fmt: skip
    lists = [value for value in whole.values() if isinstance(value, list)]
    column = column_among(whole, FILE_COLUMNS)
    if column is not None and len({len(value) for value in lists}) == 1 and len(lists) > 1:
        names = [name for name in whole if isinstance(whole[name], list)]
        return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
    if column is not None:
        return [whole]
    if len(whole) == 1 and lists and all(isinstance(record, dict) for record in lists[0]):
        return lists[0]
    return [
        {"file_name": name, **(value if isinstance(value, dict) else {"text": value})}
        for name, value in whole.items()
    ]


def _delimited_rows(
    text: str, name: str, suffix: str, is_image: Callable[[str], bool]
) -> Iterator[Row | Skipped]:
    lines = list(io.StringIO(text, newline=""))
    header = next((line for line in lines if line.strip()), "")
    delimiter = _DELIMITERS.get(suffix) or max(",;\t", key=header.count)
    at, columns = 0, None
    while at < len(lines):
        began = at
        rows = csv.reader(
            (lines[line] for line in range(began, len(lines))), delimiter=delimiter, strict=True
        )
        while True:  # until a row is bad: then a new reader begins at the line after it
            where = f"{name}, line {at + 1}"
            try:
                cells = next(rows, None)
            except csv.Error as error:
                yield Skipped(where, "bad row", str(error))
                at += 1
                break
            if cells is None:
                return
            after = began + rows.line_num
            if any(is_image(_first_cell(line, delimiter)) for line in lines[at + 1 : after]):
                yield Skipped(where, "bad row", "a quote is not closed")
                at += 1
                break
            at = after
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = [cell.strip() for cell in cells]
            elif len(cells) > len(columns):
                more = f"{len(cells)} cells in {len(columns)} columns"
                yield Skipped(where, "bad row", f"{more}: quote texts that hold {delimiter!r}")
            else:
                missing = [None] * (len(columns) - len(cells))
                yield Row(where, dict(zip(columns, [*cells, *missing], strict=True)))


def _first_cell(line: str, delimiter: str) -> str:
    return line.partition(delimiter)[0].strip().strip('"')
