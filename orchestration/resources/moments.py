"""Moments that never go back: what came later has a later one, whatever the clock says."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from corgi_core.io.files import atomic_file
from corgi_core.io.locks import LockHeldError, exclusive_lock

LATEST = "latest_moment"  # a file
PATIENCE = 5.0  # seconds


def moment_in(folder: Path) -> int:
    """Milliseconds since 1970, after every moment that was taken in this folder before.

    By these a run's attempts are told apart, also where the clock was put back between them. Where
    the folder cannot be written, it is the clock's.
    """
    now = int(1000 * time.time())
    with suppress(OSError, LockHeldError):
        path = folder / LATEST
        with exclusive_lock(folder / f"{LATEST}.lock", "another moment is taken", PATIENCE):
            if path.exists():
                now = max(now, int(path.read_text("ascii")) + 1)
            with atomic_file(path) as temporary:
                temporary.write_text(str(now), "ascii")
    return now
