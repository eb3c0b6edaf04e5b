"""Functions of items for `Compute.map`."""

from __future__ import annotations

import os
import time
from pathlib import Path


def noted(log: Path, item: int) -> int:
    """The item, which leaves a file in `log` when it is begun; the first one takes its time."""
    (log / str(item)).touch()
    time.sleep(0.3 if item == 0 else 0)
    return item


def too_large(log: Path, item: int) -> int:
    """The item; 2 needs more memory than there is, as numpy and torch say it."""
    if item == 2:
        (log / str(len(list(log.iterdir())))).touch()
        raise MemoryError(f"cannot allocate {item} TiB")
    return item


def process_of(common: object, item: int) -> int:
    """The process that does the item."""
    return os.getpid()
