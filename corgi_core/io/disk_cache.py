"""Copies, on this machine's disk, of files that lie in an object store: within a budget.

They are in a folder of the system's for temporary files, by the SHA-256 of their content. Where the
budget is used up, those that were not read for longest are removed. A file that a process has
mapped stays readable to it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file
from corgi_core.io.object_store import download_all, store_errors
from corgi_core.io.scratch import scratch_folder

GIGABYTE = 10**9
budget = 50.0  # gigabytes; set by trainings


def cache_folder() -> Path:
    """Where this user's copies are."""
    return Path(tempfile.gettempdir()) / f"corgi-shards-{os.getuid()}"


def copy_of(path: UPath, sha256: str) -> Path:
    """The local copy of a file whose content has that SHA-256; it is made now if it is not there.

    It appears whole or not at all, and only where its content is the right one.

    Raises CorgiError where the file has another content, or the store cannot be read.
    """
    copy = cache_folder() / f"{sha256}{path.suffix}"
    with suppress(FileNotFoundError):
        # Read now, so removed last. The time of the last change stays: maps are known by it.
        os.utime(copy, ns=(time.time_ns(), copy.stat().st_mtime_ns))
        return copy
    with store_errors(path):
        size = path.stat().st_size
    _make_room(size)
    with atomic_file(copy) as temporary, scratch_folder("corgi-download-") as folder:
        download_all(path.parent, folder, [path.name])
        with (folder / path.name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise CorgiError(
                    f"{path} is damaged: its SHA-256 is wrong", "remove it, and compute it again"
                )
        (folder / path.name).replace(temporary)
    return copy


def _make_room(size: int) -> None:
    """Remove the copies that were not read for longest until there is room for `size` bytes."""
    copies = []
    for copy in cache_folder().glob("*.*"):
        with suppress(FileNotFoundError):  # another process was quicker
            about = copy.stat()
            copies.append((about.st_atime_ns, about.st_size, copy))
    used = sum(each for _, each, _ in copies)
    for _, each, copy in sorted(copies):
        if used + size <= budget * GIGABYTE:
            return
        copy.unlink(missing_ok=True)
        used -= each
