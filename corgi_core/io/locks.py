"""Exclusive locks between processes: a file that says which process holds it."""

from __future__ import annotations

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corgi_core.errors import CorgiError

RETRY_AFTER = 0.2  # seconds


class LockHeldError(CorgiError):
    """Another process holds the lock."""


@contextmanager
def exclusive_lock(
    path: Path, busy: str, patience: float = 0.0, holder: str = ""
) -> Iterator[None]:
    """Hold the lock file `path` for this process.

    The operating system releases the lock when the process ends, however it ends. The file stays.

    Args:
        path: of the lock file; it and its folder are created where they are missing.
        busy: what another holder is doing, for the error message.
        patience: seconds to wait for another holder.
        holder: what this process is doing, for the others' message, which names the process too.

    Raises:
        LockHeldError: another process holds the lock; the message names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    with path.open("a+", encoding="utf-8") as file:
        while not _acquired(file.fileno()):
            if time.monotonic() >= deadline:
                file.seek(0)
                raise LockHeldError(
                    f"{busy} ({file.read().strip() or 'another process'})",
                    "wait until that process has finished, or stop it",
                )
            time.sleep(RETRY_AFTER)
        file.truncate(0)
        process = f"process {os.getpid()} on {platform.node()}"
        file.write(f"{holder}, {process}\n" if holder else f"{process}\n")
        file.flush()
        yield


def _acquired(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
