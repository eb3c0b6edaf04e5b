"""Files that are whole or absent, and the digests that name their content."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from upath import UPath

from corgi_core.io.object_store import (
    content_of,
    contents_of,
    download_all,
    ranges_of,
    remove_object,
    upload,
)

DIGEST_LENGTH = 16
HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:6]  # in names of unfinished files
ABANDONED_AFTER = 24 * 3600  # seconds


def digest_of(*parts: Any) -> str:
    """A short SHA-256 of the parts' canonical JSON: the same parts give the same 16 hex digits."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def digest_of_bytes(content: bytes) -> str:
    """A short SHA-256 of bytes in memory."""
    return hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH]


def digest_of_file(path: Path | UPath) -> str:
    """A short SHA-256 of a file's bytes, read in chunks of 1 MiB."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()[:DIGEST_LENGTH]


def is_local(path: Path | UPath) -> bool:
    """Whether `path` lies on this machine's file system (and so can be renamed atomically)."""
    return isinstance(path, Path) or path.protocol in ("", "file", "local")


def temporary_beside(path: Path) -> Path:
    """A new name for this process's attempt; what killed processes left of theirs is removed."""
    _remove_abandoned(path)
    return path.parent / f".{path.name}.{HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"


def _remove_abandoned(path: Path) -> None:
    """Remove attempts at `path` whose process on this machine is gone, or that are a day old."""
    named = re.compile(re.escape(f".{path.name}.") + r"([0-9a-f]{6})-(\d+)-[0-9a-f]{8}\.tmp")
    for attempt in path.parent.iterdir():
        if not (match := named.fullmatch(attempt.name)):
            continue
        with suppress(FileNotFoundError):  # another process was quicker
            gone = match[1] == HOST and not is_running(int(match[2]))
            if gone or time.time() - attempt.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(attempt) if attempt.is_dir() else attempt.unlink()


def is_running(process: int) -> bool:
    """Whether this machine runs a process of that number."""
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path | UPath) -> Iterator[Path]:
    """Yield the name of a temporary local file; on success it becomes `path`, as a whole.

    A reader never sees a torn file, and on failure `path` is as it was. A local file is renamed.
    What goes to an object store is written to this machine's temporary folder, and then uploaded.
    """
    local = Path(str(path)) if is_local(path) else _uploads() / path.name
    local.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(local)
    try:
        yield temporary
        if is_local(path):
            _flush_to_disk(temporary)
            temporary.replace(local)
        else:
            upload(temporary, UPath(path))
    finally:
        temporary.unlink(missing_ok=True)


def _uploads() -> Path:
    """The folder of files that are yet to be uploaded, this user's own."""
    return Path(tempfile.gettempdir()) / f"corgi-{os.getuid()}" / "uploads"


def write_json(path: Path | UPath, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path | UPath) -> Any:
    """The JSON value in a file."""
    if is_local(path):
        return json.loads(Path(str(path)).read_text(encoding="utf-8"))
    return json.loads(content_of(UPath(path)))


@contextmanager
def local_file(path: Path | UPath) -> Iterator[Path]:
    """Yield `path` itself where it is local, else a temporary copy of the object."""
    if is_local(path):
        yield Path(str(path))
        return
    with tempfile.TemporaryDirectory() as folder:
        download_all(UPath(path).parent, Path(folder), [path.name])
        yield Path(folder) / path.name


def read_each(folder: Path | UPath, names: Sequence[str]) -> list[bytes]:
    """Several whole files of a folder, in their order; many at once from an object store."""
    if is_local(folder):
        return [Path(str(folder / name)).read_bytes() for name in names]
    return contents_of(UPath(folder), names)


def read_ranges(path: Path | UPath, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Ranges of a file, each a start and a size in bytes, in their order.

    From an object store many come at once, and those that lie close together by one request.
    """
    if not is_local(path):
        yield from ranges_of(UPath(path), ranges)
        return
    with Path(str(path)).open("rb") as file:
        for start, size in ranges:
            file.seek(start)
            yield file.read(size)


def remove_file(path: Path | UPath) -> None:
    """Remove a file, in one request where it is on an object store; no error where it is absent."""
    Path(str(path)).unlink(missing_ok=True) if is_local(path) else remove_object(UPath(path))


def make_folder(path: Path | UPath) -> None:
    """Make a local folder; an object store has none, and might make a bucket instead."""
    if is_local(path):
        Path(str(path)).mkdir(parents=True, exist_ok=True)


def read_bytes(path: Path | UPath) -> bytes:
    """A whole file, in one request where it is on an object store."""
    return Path(str(path)).read_bytes() if is_local(path) else content_of(UPath(path))
