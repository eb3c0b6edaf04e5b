"""Moments that never go back: what came later has a later one, whatever the clock says."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

from corgi_core.io.files import atomic_file
from corgi_core.io.locks import LockHeldError, exclusive_lock

LATEST = "latest_moment"  # a file
PATIENCE = 5.0  # seconds
FAR_AHEAD = 24 * 3600 * 1000  # milliseconds
log = logging.getLogger(__name__)


def moment_in(folder: Path) -> int:
    """Milliseconds since 1970, after every moment that was taken in this folder before.

    By these a run's attempts are told apart, also where the clock was put back between them. Where
    the folder cannot be written, it is the clock's; so it is where the last moment is more than a
    day ahead of the clock, which was wrong then.
    """
    now = int(1000 * time.time())
    with suppress(OSError, LockHeldError):
        path = folder / LATEST
        with exclusive_lock(folder / f"{LATEST}.lock", "another moment is taken", PATIENCE):
            latest = _stored(path)
            if latest > now + FAR_AHEAD:
                log.warning("the clock was ahead by days once; what it said then counts no more")
            else:
                now = max(now, latest + 1)
            with atomic_file(path) as temporary:
                temporary.write_text(str(now), "ascii")
    return now


def _stored(path: Path) -> int:
    """The last moment; 0 where there is none, or a power cut has emptied the file."""
    try:
        return int(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return 0
