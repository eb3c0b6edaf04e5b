"""What an ingest passed over, a row each, written as it is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from corgi_core.data.formats.conventions import can_pass
from corgi_core.io.files import atomic_file

SKIPPED = pa.schema([(name, pa.string()) for name in ("path", "reason", "detail")])
_ROWS = 10_000  # in memory


def skipped_path(folder: Path | UPath, ingest: int) -> Path | UPath:
    """Where a dataset lists what its ingest of that number, from 0 on, passed over."""
    return folder / "skipped" / f"{ingest:05d}.parquet"


def read_skipped(path: Path | UPath) -> Iterator[pd.DataFrame]:
    """What one ingest passed over, in parts: path, reason, detail."""
    with path.open("rb") as file:
        table = pq.ParquetFile(file, pre_buffer=False)
        for number in range(table.num_row_groups):
            yield table.read_row_group(number, use_threads=False).to_pandas()


def by_reason(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """A row a reason, the most frequent first: reason, files, and path and detail of the first."""
    found: dict[str, dict[Hashable, Any]] = {}
    counts = Counter[str]()
    for part in parts:
        counts.update(part["reason"])
        first = part.drop_duplicates("reason").to_dict("records")
        found = {row["reason"]: row for row in first} | found
    rows = [found[reason] | {"files": files} for reason, files in counts.most_common()]
    return pd.DataFrame(rows, columns=["reason", "files", "path", "detail"])


class SkippedFile:
    """The file of one ingest: path, reason, detail."""

    def __init__(self, path: Path | UPath) -> None:
        self.count = 0
        self.failed = 0  # of them, those for a reason that can pass
        self.first = ""  # of the rows, for a message
        self._rows: list[tuple[str, str, str]] = []
        self._stack = ExitStack()
        temporary = self._stack.enter_context(atomic_file(path))
        file = self._stack.enter_context(temporary.open("wb"))
        self._writer = self._stack.enter_context(
            pq.ParquetWriter(file, SKIPPED, compression="zstd")
        )

    def add(self, path: str, reason: str, detail: str = "") -> None:
        """Note one thing that was passed over."""
        if not self.count:
            self.first = f" ({path}: {reason})"
        self.count += 1
        self.failed += can_pass(reason)
        self._rows.append((path, reason, detail))
        if len(self._rows) == _ROWS:
            self._flush()

    def _flush(self) -> None:
        columns = zip(SKIPPED.names, zip(*self._rows, strict=True), strict=True)
        self._writer.write_table(pa.table(dict(columns), schema=SKIPPED))
        self._rows.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._rows and error is None:
            self._flush()
        self._stack.__exit__(kind, error, traceback)
