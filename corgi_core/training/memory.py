"""Keeps freed memory in the process while it trains.

Each training step needs the memory that the step before has freed. glibc returns large allocations
to the system, which hands them out again a page at a time, each filled with zeros: on a CPU this
takes a tenth of the step of a network with large activations. Other C libraries have no such
switch, and torch caches a GPU's memory itself.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # mallopt(3)'s parameters
_WHILE_TRAINING = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}
_USUAL = {_TRIM_THRESHOLD: 2**26, _MMAP_THRESHOLD: 2**25, _MMAP_MAX: 65536}  # glibc's, at most


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Inside, glibc returns no memory to the system; at the end it returns all that is unused."""
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    for parameter, value in _WHILE_TRAINING.items():
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _USUAL.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)
