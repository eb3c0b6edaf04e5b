"""A run's metrics as they come: one JSON object a line in metrics.jsonl, written by one worker.

    {"step": 200, "time": 1767225600.0, "seconds": 9.4, "loss": 0.31, "learning_rate": 0.0007, …}

`step` counts finished steps, `time` is in seconds since 1970. `seconds` is the time spent in those
steps, without evaluations, checkpoints and what a killed run had to do again. Progress displays and
trackers follow the file, so none of them can slow a training down or fail it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from corgi_core.io.files import atomic_file
from corgi_core.progress import DETAIL

Entry = dict[str, Any]

log = logging.getLogger(__name__)


def headline(name: str, entry: Entry) -> str:
    """The run and its latest loss, for a progress display."""
    return f"{name}{DETAIL}loss {entry['loss']:.3g}" if "loss" in entry else name


class MetricsLog:
    """The writing end. Opening it at a step drops the entries after it, and any torn line."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        entries = [entry for entry in read_metrics(path) if entry["step"] <= step]
        with atomic_file(path) as temporary:  # a new file, by which followers notice
            temporary.write_text("".join(map(_line, entries)), encoding="utf-8")

    def write(self, entry: Entry) -> None:
        """Append one entry."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))


class MetricsReader:
    """The reading end: each call of `new_entries` returns the entries written since the last one.

    A torn last line is returned once it is complete. When a resumed run has cut the log back, the
    file is read from its start, and no entry is returned twice.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._offset, self._step = -1, 0, -1

    def new_entries(self) -> list[Entry]:
        """The complete entries since the last call; none where there is no such file."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            inode = self._path.stat().st_ino
            if inode != self._inode:
                self._inode, self._offset = inode, 0
            file.seek(self._offset)
            whole, newline, _torn = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        entries = [entry for line in whole.splitlines() if (entry := _parsed(line))]
        entries = [entry for entry in entries if entry["step"] > self._step]
        if entries:
            self._step = entries[-1]["step"]
        return entries


def read_metrics(path: Path) -> list[Entry]:
    """All complete entries of a metrics log; none if there is no such file."""
    return MetricsReader(path).new_entries()


class MetricsFollower:
    """Passes a growing metrics log to a callback, entry by entry, from a thread of its own.

    `with MetricsFollower(path, callback) as follower:` reads new entries every `interval` seconds.
    When the callback raises, the entry and those after it wait, and are offered again at the next
    read; leaving the block makes one last attempt. `undelivered` then counts the entries that the
    callback did not accept. An error of the callback never reaches the code inside the block.
    """

    def __init__(
        self, path: Path, callback: Callable[[Entry], None], interval: float = 0.5
    ) -> None:
        self._reader, self._callback, self._interval = MetricsReader(path), callback, interval
        self._waiting: deque[Entry] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics_log", daemon=True)

    @property
    def undelivered(self) -> int:
        """Entries that the callback has not accepted so far."""
        return len(self._waiting)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._deliver()
        if self._waiting:
            log.warning("%d metrics could not be delivered", len(self._waiting))

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._deliver()

    def _deliver(self) -> None:
        self._waiting.extend(self._reader.new_entries())
        try:
            while self._waiting:
                self._callback(self._waiting[0])
                self._waiting.popleft()
        except Exception as failure:
            log.warning("metrics wait for the next attempt: %s", failure)


def _line(entry: Entry) -> str:
    return json.dumps(entry, allow_nan=True) + "\n"


def _parsed(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "step" in entry else None
