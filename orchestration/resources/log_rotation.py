"""Log files of bounded size: each has one file beside it, with what came before."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from corgi_core.io.locks import LockHeldError, exclusive_lock

LIMIT = 10_000_000  # bytes from which on a log is rotated


def before(log: Path) -> Path:
    """The file with what a log had before its last rotation."""
    return log.with_name(f"{log.name}.1")


def rotate(log: Path, limit: int = LIMIT) -> None:
    """Move what is in a log to the file beside it, where it is longer than `limit` bytes.

    The log is copied and then emptied, so that a process which has it open goes on in the same
    file: servers write to one for months. All who write to it must append. What is written between
    the copy's end and the emptying is lost. Where it cannot be copied, it grows on.
    """
    with suppress(OSError, LockHeldError):
        if log.stat().st_size > limit:
            with exclusive_lock(log.with_name(f".{log.name}.lock"), f"{log} is being rotated"):
                _rotate(log, limit)


def _rotate(log: Path, limit: int) -> None:
    copy = log.with_name(f".{log.name}.copy")
    try:
        with log.open("r+b") as file, copy.open("wb") as target:
            if log.stat().st_size <= limit:  # another process was faster
                return
            shutil.copyfileobj(file, target)
            target.flush()
            file.truncate(0)
        copy.replace(before(log))
    finally:
        copy.unlink(missing_ok=True)
