"""Freed memory stays with the process while it trains.

Every step of a training needs the memory that the step before has freed. glibc gives large blocks
back to the system, which hands them out again a page at a time, each filled with zeros: a tenth of
the step of a network whose activations are large, on a CPU. There is nothing to do elsewhere: other
C libraries have no such switch, and a GPU's memory is kept by torch.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # mallopt(3)'s parameters
_KEPT = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}
_USUAL = {_TRIM_THRESHOLD: 2**26, _MMAP_THRESHOLD: 2**25, _MMAP_MAX: 65536}  # glibc's, at most


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Within it glibc gives nothing back to the system; after it, all that is free."""
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    for parameter, value in _KEPT.items():
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _USUAL.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)
