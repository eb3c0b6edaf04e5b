"""Parquet files: written whole or not at all, and read without leaving threads behind."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from corgi_core.io.files import atomic_file, is_local, read_bytes

Row = dict[str, Any]


def write_table(path: Path | UPath, rows: list[Row], schema: pa.Schema) -> None:
    """Write `rows` as Parquet; the same rows give the same bytes."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")


def opened(path: Path | UPath) -> BinaryIO:
    """A Parquet file, open for reading: one on an object store is fetched whole, by one request."""
    return path.open("rb") if is_local(path) else io.BytesIO(read_bytes(path))


def read_arrow(file: Any, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, or some of its columns, read in this thread alone.

    Arrow's own threads may still wait for a Python file when the interpreter ends, which then
    aborts a process that has done its work (apache/arrow #34314).
    """
    return pq.ParquetFile(file, pre_buffer=False).read(
        columns=columns and list(columns), use_threads=False
    )


def as_frame(table: pa.Table) -> pd.DataFrame:
    """A table as a frame whose list columns hold Python lists (or None), not arrays."""
    return pd.DataFrame(
        {
            name: pd.Series(table[name].to_pylist(), dtype=object)
            if pa.types.is_list(table.schema.field(name).type)
            else table[name].to_pandas()
            for name in table.column_names
        }
    )


def read_frame(path: Path | UPath, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A Parquet file, or some of its columns, as `as_frame` makes it."""
    with opened(path) as file:
        return as_frame(read_arrow(file, columns))


def read_rows(path: Path | UPath) -> list[Row]:
    """All rows of a Parquet file, as `write_table` takes them."""
    with opened(path) as file:
        rows: list[Row] = read_arrow(file).to_pylist()
        return rows
