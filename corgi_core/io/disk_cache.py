"""Copies, on this machine's disk, of files that lie in an object store: within a budget.

They are in a folder of the system's for temporary files, by a digest of their content. Where the
budget is used up, those that were not read for longest are removed. A file that a process has
mapped stays readable to it.

The processes of a machine share the copies. One of them fetches a file while the others that need
it wait, and one at a time makes room.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TypeVar

from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file
from corgi_core.io.locks import exclusive_lock
from corgi_core.io.object_store import download_all
from corgi_core.io.scratch import scratch_folder

Read = TypeVar("Read")
GIGABYTE = 10**9
budget = 50.0  # gigabytes; set by trainings


def cache_folder() -> Path:
    """Where this user's copies are."""
    return Path(tempfile.gettempdir()) / f"corgi-shards-{os.getuid()}"


def read_copy(
    path: UPath, digest: str, read: Callable[[Path], Read], size: int | None = None
) -> Read:
    """What `read` makes of the local copy of a file whose content has that SHA-256.

    With a size, in bytes, the digest is another one that names the content. Of the copy its size
    alone is verified then: what is read of it is for `read` to verify.

    The copy is made now if it is not there. It appears whole or not at all, and only where its
    content is the right one. Where another process removes it before it is opened, it is made
    again.

    Raises CorgiError where the file has another content, or the store cannot be read; and what
    `read` raises.
    """
    copy = cache_folder() / f"{digest}{path.suffix}"
    while True:
        if not _noted_as_read(copy):
            with _lock(digest[:2], f"{path} is being fetched"):
                if not _noted_as_read(copy):
                    _fetch(path, digest, size, copy)
        try:
            return read(copy)
        except (CorgiError, FileNotFoundError):
            if copy.exists():
                raise


def _noted_as_read(copy: Path) -> bool:
    """Whether the copy is there. It is read now, so it is removed last.

    The time of its last change stays, by which maps are known.
    """
    try:
        os.utime(copy, ns=(time.time_ns(), copy.stat().st_mtime_ns))
    except FileNotFoundError:
        return False
    return True


def _fetch(path: UPath, digest: str, size: int | None, copy: Path) -> None:
    with scratch_folder("corgi-download-") as folder:
        download_all(path.parent, folder, [path.name])
        fetched = folder / path.name
        if size is None and _sha256_of(fetched) != digest:
            raise CorgiError(
                f"{path} is damaged: its SHA-256 is wrong", "remove it, and compute it again"
            )
        if size is not None and fetched.stat().st_size != size:
            raise CorgiError(f"{path} is damaged: its size is not {size}", "bring it back")
        with _lock("room", "another process makes room"):
            _make_room(fetched.stat().st_size)
            with atomic_file(copy) as temporary:
                fetched.replace(temporary)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lock(name: str, busy: str) -> AbstractContextManager[None]:
    """A lock among this machine's processes; who holds it ends, so it is waited for."""
    locks = cache_folder().with_name(f"{cache_folder().name}-locks")
    return exclusive_lock(locks / f"{name}.lock", busy, patience=math.inf)


def _make_room(size: int) -> None:
    """Remove the copies that were not read for longest until there is room for `size` bytes."""
    copies = []
    for copy in cache_folder().glob("[!.]*"):  # others are being written
        with suppress(FileNotFoundError):
            about = copy.stat()
            copies.append((about.st_atime_ns, about.st_size, copy))
    used = sum(each for _, each, _ in copies)
    for _, each, copy in sorted(copies):
        if used + size <= budget * GIGABYTE:
            return
        copy.unlink(missing_ok=True)
        used -= each
