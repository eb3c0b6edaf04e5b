"""Copies, on this machine's disk, of files that lie in an object store: within a budget.

They are in a folder of the system's for temporary files, by a digest of their content. Where the
budget is used up, those that were not read for longest are removed. A file that a process has
mapped stays readable to it.

The processes of a machine share the copies. One of them fetches a file while the others that need
it wait. One at a time makes room, before it fetches; what is being fetched counts as used.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file
from corgi_core.io.locks import exclusive_lock
from corgi_core.io.object_store import download_all, store_errors
from corgi_core.io.scratch import scratch_folder

Read = TypeVar("Read")
GIGABYTE = 10**9
budget = 50.0  # gigabytes; set by trainings

_FETCHING = ".fetching-"  # a folder of the cache, for a file that is being fetched
_ROOM = "room"  # in such a folder: an empty file of the size of what is being fetched
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)


def cache_folder() -> Path:
    """Where this user's copies are."""
    return Path(tempfile.gettempdir()) / f"corgi-shards-{os.getuid()}"


def read_copy(
    path: UPath, digest: str, read: Callable[[Path], Read], size: int | None = None
) -> Read:
    """What `read` makes of the local copy of a file whose content has that SHA-256.

    With `size`, `digest` only names the copy: its size is checked, its content is not.

    The copy is made now if it is not there. It appears whole or not at all, and only where its
    content is the right one. It is made again where another process removes it before it is
    opened, and where `read` refuses it because the disk has damaged it.

    Raises CorgiError where the file has another content, the store cannot be read, or the copy
    cannot be written; and what `read` raises.
    """
    copy = _copy_of(path, digest)
    while True:
        with _disk_errors(path):
            if not _noted_as_read(copy):
                with _lock(digest[:2], f"{path} is being fetched"):
                    if not _noted_as_read(copy):
                        _fetch(path, digest, size, copy)
        try:
            return read(copy)
        except (CorgiError, FileNotFoundError):
            if _is_whole(copy, digest, size):
                raise
            copy.unlink(missing_ok=True)


def remove_copy(path: UPath, digest: str) -> None:
    """Remove the local copy of a file, so that the next `read_copy` fetches it again."""
    _copy_of(path, digest).unlink(missing_ok=True)


def _copy_of(path: UPath, digest: str) -> Path:
    return cache_folder() / f"{digest}{path.suffix}"


@contextmanager
def _disk_errors(path: UPath) -> Iterator[None]:
    """Turn what keeps this machine's disk from taking a copy of `path` into a CorgiError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        raise CorgiError(
            f"{path} cannot be copied to {cache_folder()} ({error.strerror})",
            "make room there or let this user write there, lower cache_gigabytes of the training, "
            "or set TMPDIR to a folder on another disk",
        ) from error


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
    with store_errors(path):
        needed: int = path.fs.size(path.path) if size is None else size
    cache_folder().mkdir(parents=True, exist_ok=True)
    with scratch_folder(_FETCHING, cache_folder()) as folder:
        with _lock("room", "another process makes room"):
            _make_room(needed)
            (folder / _ROOM).touch()
            os.truncate(folder / _ROOM, needed)
        download_all(path.parent, folder, [path.name])
        fetched = folder / path.name
        if size is None and _sha256_of(fetched) != digest:
            raise CorgiError(
                f"{path} is damaged: its SHA-256 is wrong", "remove it, and compute it again"
            )
        if size is not None and fetched.stat().st_size != size:
            raise CorgiError(f"{path} is damaged: its size is not {size}", "bring it back")
        with atomic_file(copy) as temporary:
            fetched.replace(temporary)


def _is_whole(copy: Path, digest: str, size: int | None) -> bool:
    """Whether the copy is there, and has the content that was fetched where its digest is known."""
    try:
        return copy.exists() if size is not None else _sha256_of(copy) == digest
    except FileNotFoundError:
        return False


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
    for copy in cache_folder().glob("[!.]*"):  # others are being fetched
        with suppress(FileNotFoundError):
            about = copy.stat()
            copies.append((about.st_atime_ns, about.st_size, copy))
    used = sum(each for _, each, _ in copies)
    for room in cache_folder().glob(f"{_FETCHING}*/{_ROOM}"):
        with suppress(FileNotFoundError):
            used += room.stat().st_size
    for _, each, copy in sorted(copies):
        if used + size <= budget * GIGABYTE:
            return
        copy.unlink(missing_ok=True)
        used -= each
