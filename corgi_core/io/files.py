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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from upath import UPath

from corgi_core.errors import CorgiError

DIGEST_LENGTH = 16
HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:6]  # in names of unfinished files
ABANDONED_AFTER = 24 * 3600  # seconds
MARKER = ".written-by-corgi"  # in every folder that Corgi wrote: the list of its files
# what file managers, DVC and killed writers leave in any folder
_SYSTEM_FILES = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.gitignore|\..+\.tmp")

# Folders of versions that wrote no marker are known by a JSON file with these names in it.
_BEFORE_MARKERS = {
    "index.json": {"spec", "shards"},
    "00000.json": {"source", "sha256", "rows"},
    "config.json": {"kind", "weights"},
    "ensemble.json": {"names", "digest"},
    "metrics.json": {"protocol", "priors"},
    "state.json": {"sha256"},
}
_DATASET_BEFORE_MARKERS = re.compile(r"(manifest|quarantine|skipped)\.parquet|shards/\d{5,}\.tar")
_REPORT_BEFORE_MARKERS = re.compile(r"measurements\.json|\w+\.png|tables/\w+\.md")


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


def _temporary_beside(path: Path | UPath) -> Path | UPath:
    """A new name for this process's attempt; what killed processes left of theirs is removed."""
    if is_local(path):
        _remove_abandoned(Path(str(path)))
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
                remove_folder(attempt) if attempt.is_dir() else attempt.unlink()


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
def atomic_file(path: Path | UPath) -> Iterator[Path | UPath]:
    """Yield a temporary name beside `path`; on success rename it to `path`, on failure remove it.

    A reader never sees a torn file. On an object store a key appears only once its upload is
    complete, so there the rename is a server-side move.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_beside(path)
    try:
        yield temporary
        if is_local(path):
            _flush_to_disk(Path(str(temporary)))
            Path(str(temporary)).replace(str(path))
        else:
            UPath(temporary).rename(UPath(path))
    finally:
        if temporary.exists():
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path | UPath) -> Iterator[Path | UPath]:
    """Yield a temporary folder beside `path`; on success it replaces `path` and its content.

    Raises CorgiError, before anything is written, where `path` holds what Corgi did not write.
    """
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        mark_folder(temporary, _files_below(temporary))
        check_replaceable(path)  # again: writing may have taken hours
        if path.exists():
            remove_folder(path)
        if is_local(path):
            Path(str(temporary)).replace(str(path))
        else:
            UPath(temporary).rename(UPath(path), recursive=True)
    finally:
        if temporary.exists():
            remove_folder(temporary)


@contextmanager
def joining_folder(path: Path | UPath, last: str) -> Iterator[Path | UPath]:
    """Yield a temporary folder beside `path`; on success its files join those in `path`.

    On failure `path` is as it was. The file `last` is moved at the end, so that it may say which
    files count: until then the others are there in vain.

    Raises CorgiError, before anything is written, where `path` holds what Corgi did not write.
    """
    check_replaceable(path)
    temporary = _temporary_beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        new = [name for name in _files_below(temporary) if name != last]
        check_replaceable(path)  # again: writing may have taken hours
        mark_folder(path, {*_files_below(path), *new, last})
        for name in (*new, last):
            (path / name).parent.mkdir(exist_ok=True)
            if is_local(path):
                Path(str(temporary / name)).replace(str(path / name))
            else:
                UPath(temporary / name).rename(UPath(path / name))
    finally:
        if temporary.exists():
            remove_folder(temporary)


def check_replaceable(path: Path | UPath) -> None:
    """Raise CorgiError where replacing the folder `path` would destroy what Corgi did not write.

    An absent or empty folder may be replaced, and one that holds only files that Corgi wrote there
    (and those that file managers leave everywhere).
    """
    remedy = "move it away, or choose another name or folder for what Corgi writes"
    if is_local(path) and Path(str(path)).is_symlink():
        raise CorgiError(f"{path} is a link, and Corgi replaces only folders of its own", remedy)
    if not path.exists():
        return
    if not path.is_dir():
        raise CorgiError(f"{path} is a file, where a folder would be written", remedy)
    if (foreign := _foreign_file(path)) is not None:
        raise CorgiError(f"{path} holds {foreign}, which Corgi did not write", remedy)


def mark_folder(folder: Path | UPath, files: Iterable[str]) -> None:
    """Leave in `folder` the list of the files in it that are Corgi's, relative to it."""
    content = json.dumps({"files": sorted(set(files) - {MARKER})}, indent=0) + "\n"
    marker = folder / MARKER
    if not (marker.exists() and marker.read_text(encoding="utf-8") == content):
        with atomic_file(marker) as temporary:
            temporary.write_text(content, encoding="utf-8")


def is_marked(folder: Path | UPath) -> bool:
    """Whether Corgi wrote this folder; folders of versions that wrote no marker are not known."""
    return (folder / MARKER).is_file()


def _foreign_file(folder: Path | UPath) -> str | None:
    """The first file in `folder` that Corgi did not write there, relative to it; None without."""
    names = (name for name in _files_below(folder) if name != MARKER)
    found = [name for name in names if not _SYSTEM_FILES.fullmatch(name.rpartition("/")[2])]
    if is_marked(folder):
        try:
            ours = set(read_json(folder / MARKER)["files"])
        except (ValueError, KeyError, TypeError):
            ours = set()
        return next((name for name in found if name not in ours), None)
    return None if not found or _written_before_markers(folder, found) else found[0]


def _written_before_markers(folder: Path | UPath, files: list[str]) -> bool:
    """Whether an earlier version of Corgi, which wrote no marker, wrote these files of `folder`."""
    for name, pattern in (
        ("manifest.parquet", _DATASET_BEFORE_MARKERS),
        ("measurements.json", _REPORT_BEFORE_MARKERS),
    ):
        if name in files:
            return len(files) > 1 and all(pattern.fullmatch(file) for file in files)
    for name, keys in _BEFORE_MARKERS.items():
        if name in files:
            with suppress(ValueError, TypeError):
                return keys <= set(read_json(folder / name))
    return False


def _files_below(folder: Path | UPath) -> list[str]:
    """Every file below `folder`, relative to it, sorted; links are files."""
    if not is_local(folder):
        root = UPath(folder)
        return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    top, found = str(folder), []
    for parent, folders, files in os.walk(top):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        found += [Path(parent, name).relative_to(top).as_posix() for name in (*files, *links)]
    return sorted(found)


def remove_folder(path: Path | UPath) -> None:
    """Remove a folder and all that it holds; no error where there is none."""
    if not path.exists():
        return
    if is_local(path):
        shutil.rmtree(str(path))
    else:
        UPath(path).rmdir(recursive=True)


def write_json(path: Path | UPath, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path | UPath) -> Any:
    """The JSON value in a file."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def local_folder(folder: Path | UPath, write: bool = False) -> Iterator[Path]:
    """Yield `folder` itself where it is local, else a temporary copy; `write` uploads it after."""
    if is_local(folder):
        yield Path(str(folder))
        return
    with tempfile.TemporaryDirectory() as temporary:
        local = Path(temporary)
        _copy(folder, local)
        yield local
        if write:
            _copy(local, folder)


def _copy(source: Path | UPath, target: Path | UPath) -> None:
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        copy = target / str(file)[len(str(source)) :].lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
