"""Copies, on this machine's disk, of files that lie in an object store: within a budget.

They are in a folder of the system's for temporary files, by the SHA-256 of their content. Where the
budget is used up, those that were not read for longest are removed. A file that a process has
mapped stays readable to it.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from upath import UPath

from corgi_core.io.files import atomic_file
from corgi_core.io.object_store import download_all

GIGABYTE = 10**9
budget = 50.0  # gigabytes; set by trainings


def cache_folder() -> Path:
    """Where this user's copies are."""
    return Path(tempfile.gettempdir()) / f"corgi-shards-{os.getuid()}"


def copy_of(path: UPath, sha256: str) -> Path:
    """The local copy of a file whose content has that SHA-256; it is made now if it is not there.

    It appears whole or not at all. The content is not checked here.
    """
    copy = cache_folder() / f"{sha256}{path.suffix}"
    with suppress(FileNotFoundError):
        os.utime(copy)  # read now: it is removed last
        return copy
    size = path.stat().st_size
    _make_room(size)
    with atomic_file(copy) as temporary, tempfile.TemporaryDirectory(dir=copy.parent) as folder:
        download_all(path.parent, Path(folder), [path.name])
        (Path(folder) / path.name).replace(temporary)
    return copy


def _make_room(size: int) -> None:
    """Remove the copies that were not read for longest until there is room for `size` bytes."""
    copies = []
    for copy in cache_folder().glob("*.*"):
        with suppress(FileNotFoundError):  # another process was quicker
            about = copy.stat()
            copies.append((about.st_mtime, about.st_size, copy))
    used = sum(each for _, each, _ in copies)
    for _, each, copy in sorted(copies):
        if used + size <= budget * GIGABYTE:
            return
        copy.unlink(missing_ok=True)
        used -= each
