"""Precomputed CLIP embeddings: Parquet tables, or .npy matrices with their keys.

A Parquet table has a key, a column of float lists for every CLIP encoder, and perhaps captions and
a split. An .npy matrix has a row an image; what they are called stands in a table of as many rows
beside it: `NAME.parquet`, `NAME.csv` or, a key a line, `NAME.txt`. clip-retrieval's output is of
the second kind: `img_emb/img_emb_0.npy` with `metadata/metadata_0.parquet`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from posixpath import normpath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.lib import format as npy
from numpy.typing import NDArray
from upath import UPath

from corgi_core.data.formats.conventions import (
    IMAGE_SUFFIXES,
    Captions,
    Skipped,
    caption_column_of,
    captions_in,
    column_among,
    split_among,
    text_of,
)
from corgi_core.data.shards import Sample
from corgi_core.data.vectors import VECTOR, Blocks, Space, vector_file
from corgi_core.errors import CorgiError

KEY_COLUMNS = ("key", "image_path", "file_name", "id")  # looked for in this order
MATRIX = "clip"  # the encoder's name where there is a matrix only, which does not say
MATRICES, TABLES = "img_emb", "metadata"  # clip-retrieval's folders
_ROWS = 1024  # read at once

Record = dict[str, Any]


class About(NamedTuple):
    """What a table says of one image."""

    key: str
    captions: Captions
    split: str | None


def read(
    path: Path | UPath | None, caption_column: str | None = None
) -> Iterator[Sample | Skipped]:
    """Every embedding of the files at `path`, in their order, a few rows in memory at a time.

    `path`: a Parquet or .npy file, or a folder of them. Keys are made legal: an image's suffix is
    left out, other dots become underscores.
    """
    if path is None or not path.exists():
        raise CorgiError(f"there is no file or folder {path}", "check the path")
    keys, space = _Keys(), None
    for file in _files(path):
        by_name = split_among([file.parent.name, re.split("[^A-Za-z]", file.stem)[0]])
        rows = _matrix_rows if file.suffix == ".npy" else _table_rows
        for about, encoder_dims in rows(file, caption_column):
            space = space or Space.of(encoder_dims)
            if Space.of(encoder_dims) != space:
                raise CorgiError(
                    f"{file}: the embedding of {about.key!r} is {Space.of(encoder_dims)}, "
                    f"the first one is {space}",
                    "bring embeddings of the same encoders and widths only",
                )
            key, group = keys.legal(about.key, file)
            if about.captions.fault:
                yield Skipped(f"{file.name}: {about.key}", "unusable caption", about.captions.fault)
            yield Sample(
                key,
                vector_file(encoder_dims),
                about.captions.texts,
                about.split or by_name,
                source=path.name,
                group=group,
                suffix=VECTOR,
            )


class _Keys:
    """Makes keys legal, and keeps them apart from each other."""

    def __init__(self) -> None:
        self._owners: set[str] = set()  # as they are in the tables
        self._legal: set[str] = set()

    def legal(self, key: str, file: Path | UPath) -> tuple[str, str]:
        """The key without suffix and dots, and the same with a hash where another one has it."""
        if key in self._owners:
            raise CorgiError(
                f"{file} has the key {key!r}, which was there before", "give every row its own key"
            )
        self._owners.add(key)
        folder, slash, last = normpath(key).lstrip("./").rpartition("/")
        stem, _, suffix = last.rpartition(".")
        plain = stem if stem and suffix.lower() in IMAGE_SUFFIXES else last
        group = f"{folder}{slash}{plain.replace('.', '_') or '_'}"
        unique = group
        if group in self._legal:
            unique = f"{group}-{sha256(key.encode()).hexdigest()[:8]}"
        self._legal.add(unique)
        return unique, group


def _files(path: Path | UPath) -> list[Path | UPath]:
    """The .npy matrices and the Parquet tables of embeddings; not the tables beside matrices."""
    if not path.is_dir():
        found = [path, path.with_suffix(".npy")]
    elif (path / MATRICES).is_dir():
        found = list((path / MATRICES).glob("*.npy"))
    else:
        found = [file for file in path.rglob("*") if not file.name.startswith(".")]
    matrices = {file for file in found if file.suffix == ".npy" and file.exists()}
    tables = {file for file in found if file.suffix == ".parquet"}
    files = matrices | {table for table in tables if table.with_suffix(".npy") not in matrices}
    if not files:
        raise CorgiError(
            f"{path} holds no embeddings", "name a .parquet or .npy file, or a folder of them"
        )
    return sorted(files, key=lambda file: (str(file.parent), len(file.name), file.name))


def _table_rows(file: Path | UPath, caption_column: str | None) -> Iterator[tuple[About, Blocks]]:
    """The rows of a Parquet table with embeddings in it."""
    with _parquet(file) as table:
        schema = table.schema_arrow
        encoders = [column.name for column in schema if _is_vectors(column.type)]
        if not encoders:
            columns = ", ".join(f"{column.name} ({column.type})" for column in schema)
            raise CorgiError(
                f"{file} has no column of embeddings; it has {columns}",
                "store each encoder's embeddings as a column of lists of floats",
            )
        about = _reading(file, schema.names, caption_column)
        others = [name for name in schema.names if name not in encoders]
        for batch in table.iter_batches(_ROWS):
            vectors = [_vectors(batch.column(encoder)) for encoder in encoders]
            for record, *outputs in zip(batch.select(others).to_pylist(), *vectors, strict=True):
                yield about(record), dict(zip(encoders, outputs, strict=True))


def _matrix_rows(file: Path | UPath, caption_column: str | None) -> Iterator[tuple[About, Blocks]]:
    """The rows of an .npy matrix and of the table that belongs to it."""
    table = _table_of(file)
    records = {".parquet": _parquet_records, ".csv": _csv_records, ".txt": _keys_alone}
    columns, rows = records[table.suffix](table)
    about = _reading(table, columns, caption_column)
    for count, (record, vector) in enumerate(zip_longest(rows, _matrix(file))):
        if record is None or vector is None:
            longer, shorter = (table, file) if vector is None else (file, table)
            raise CorgiError(
                f"{longer} has more rows than {shorter}, which has {count}",
                "bring a matrix and a table of the same images",
            )
        yield about(record), {MATRIX: vector}


def _table_of(matrix: Path | UPath) -> Path | UPath:
    if matrix.parent.name == MATRICES:
        number = matrix.name.removeprefix(MATRICES)
        tables = [(matrix.parent.parent / TABLES / f"{TABLES}{number}").with_suffix(".parquet")]
    else:
        tables = [matrix.with_suffix(suffix) for suffix in (".parquet", ".csv", ".txt")]
    for table in tables:
        if table.exists():
            return table
    names = " or ".join(table.name for table in tables)
    raise CorgiError(f"{matrix} has no table of keys beside it", f"add {names}")


def _reading(
    file: Path | UPath, columns: Sequence[str], caption_column: str | None
) -> Callable[[Record], About]:
    """How a record of that table is read, once its columns are known."""
    present = f"it has {', '.join(columns)}"
    key = column_among(columns, KEY_COLUMNS)
    if key is None:
        raise CorgiError(
            f"{file} has no key column {' or '.join(map(repr, KEY_COLUMNS))}; {present}",
            "call the column that names the images 'key'",
        )
    captions = caption_column_of(columns, caption_column)
    if captions is None and caption_column is not None:
        raise CorgiError(
            f"{file} has no caption column {caption_column!r}; {present}",
            "name the column that holds the captions by --caption-column",
        )

    def about(record: Record) -> About:
        if record[key] is None or not str(record[key]).strip():
            raise CorgiError(f"{file} has a row without {key}: {record}", "name its image")
        split = record.get("split")
        return About(
            str(record[key]),
            _captions(record, captions),
            split_among([str(split)]) if split else None,
        )

    return about


def _captions(record: Record, column: str | None) -> Captions:
    if None in record:  # where csv.DictReader puts the cells beyond the header's columns
        return Captions(None, "its row has more cells than the header: quote texts with commas")
    return captions_in(record[column]) if column else Captions(None)


def _is_vectors(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in lists) and pa.types.is_floating(kind.value_type)


def _vectors(column: pa.Array) -> list[NDArray[np.floating[Any]]]:
    """The rows of a list column, each as long as it is; missing numbers are NaN."""
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    numbers = _plain_floats(column.flatten().to_numpy(zero_copy_only=False))
    return np.split(numbers, np.cumsum(lengths)[:-1])


def _matrix(file: Path | UPath) -> Iterator[NDArray[np.floating[Any]]]:
    """The rows of an .npy matrix of floats."""
    with file.open("rb") as opened:
        try:
            older = npy.read_magic(opened) == (1, 0)
            header = npy.read_array_header_1_0 if older else npy.read_array_header_2_0
            shape, by_columns, dtype = header(opened)
        except ValueError as error:
            raise CorgiError(
                f"{file} is no .npy file ({error})", "save it by numpy.save"
            ) from error
        if len(shape) != 2 or by_columns or dtype.kind != "f":
            raise CorgiError(
                f"{file} holds {dtype} of shape {shape}{' by columns' if by_columns else ''}",
                "save a matrix of float16 or float32, in C order, with a row for every image",
            )
        for first in range(0, shape[0], _ROWS):
            rows = min(_ROWS, shape[0] - first)
            content = opened.read(rows * shape[1] * dtype.itemsize)
            if len(content) < rows * shape[1] * dtype.itemsize:
                raise CorgiError(f"{file} ends too soon", "copy or download it again")
            yield from _plain_floats(np.frombuffer(content, dtype)).reshape(rows, shape[1])


def _plain_floats(numbers: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, for the gate to see
        return numbers if numbers.dtype == np.float16 else numbers.astype(np.float32)


@contextmanager
def _parquet(file: Path | UPath) -> Iterator[pq.ParquetFile]:
    """The open table; what Arrow says against it while it is read becomes a CorgiError."""
    with file.open("rb") as opened:
        try:
            yield pq.ParquetFile(opened, pre_buffer=False)  # in this thread: see `read_arrow`
        except pa.ArrowInvalid as error:
            raise CorgiError(
                f"{file} is no whole Parquet file, or lacks an embedding ({error})",
                "copy or write it again, with an embedding in every row",
            ) from error


def _parquet_records(file: Path | UPath) -> tuple[list[str], Iterator[Record]]:
    with _parquet(file) as table:
        columns = table.schema_arrow.names

    def records() -> Iterator[Record]:
        with _parquet(file) as table:
            for batch in table.iter_batches(_ROWS):
                yield from batch.to_pylist()

    return columns, records()


def _csv_records(file: Path | UPath) -> tuple[list[str], Iterator[Record]]:
    rows = csv.DictReader(io.StringIO(text_of(file.read_bytes()), newline=""), strict=True)

    def records() -> Iterator[Record]:
        try:
            yield from rows
        except csv.Error as error:
            raise CorgiError(
                f"{file}, line {rows.line_num}: not a row of a CSV table ({error})",
                "correct that line: quotes are closed, and doubled within a text",
            ) from error

    return list(rows.fieldnames or ()), records()


def _keys_alone(file: Path | UPath) -> tuple[list[str], Iterator[Record]]:
    lines = re.split(r"\r\n|\r|\n", text_of(file.read_bytes()).rstrip("\r\n"))
    return ["key"], ({"key": line} for line in lines)
