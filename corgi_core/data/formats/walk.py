"""The files below a folder: hidden ones left out, links followed once, the unreadable named."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from upath import UPath

from corgi_core.data.formats.conventions import UNREADABLE, Skipped
from corgi_core.data.formats.names import suffix_of
from corgi_core.io.files import is_local
from corgi_core.io.markers import is_marked
from corgi_core.io.object_store import names_below
from corgi_core.io.read_errors import is_no_fault_of_the_file

Files = dict[str, Path | UPath]  # by their path below the folder, with "/" between its parts
# of archivers, file servers, Python and Windows
_NOT_DATA = ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information")


class Wanted:
    """The files that are to be read, by their paths, and all files of folders among these."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._found: set[str] = set()

    def __contains__(self, name: str) -> bool:
        parts = name.split("/")
        above = (".", *("/".join(parts[:count]) for count in range(1, len(parts) + 1)))
        found = self._names.intersection(above)
        self._found |= found
        return bool(found)

    def not_found(self) -> list[str]:
        """Those names that nothing was asked about, sorted."""
        return sorted(self._names - self._found)


_wanted: ContextVar[Wanted | None] = ContextVar("wanted", default=None)


@contextmanager
def reading_only(names: Iterable[str]) -> Iterator[Wanted]:
    """While it lasts, readers that ask `is_wanted` read those files only."""
    wanted = Wanted(names)
    token = _wanted.set(wanted)
    try:
        yield wanted
    finally:
        _wanted.reset(token)


def is_wanted(name: str) -> bool:
    """Whether a reader should read the content of a file, by its path below the data's root."""
    wanted = _wanted.get()
    return wanted is None or name in wanted


def files_below(root: Path | UPath) -> tuple[Files, list[Skipped]]:
    """Every file below `root`, sorted by path, and what was passed over.

    Passed over are hidden files and folders, folders that Corgi wrote, links that lead nowhere or
    to a folder that is read anyway, and what may not be read.
    """
    if not is_local(root):
        return _remote_files(root)
    files: dict[str, Path | UPath] = {}
    skipped: list[Skipped] = []
    read: set[str] = set()  # the real paths of folders
    folders = [("", Path(str(root)))]
    links: list[tuple[str, Path]] = []
    while folders or links:
        prefix, folder = (folders or links).pop(0)  # links last: real folders give the names
        real = os.path.realpath(folder)
        if real in read:
            skipped.append(Skipped(prefix.rstrip("/"), "a link to a folder that is read anyway"))
            continue
        read.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            why = error.strerror or str(error)
            skipped.append(Skipped(prefix.rstrip("/") or ".", "a folder that cannot be read", why))
            continue
        for entry in entries:
            name, path = prefix + entry.name, Path(entry.path)
            if reason := _reason_to_skip(entry):
                skipped.append(Skipped(name, reason))
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append((f"{name}/", path))
            else:
                files[name] = path
    return dict(sorted(files.items())), skipped


def content_of(name: str, file: Path | UPath) -> bytes | Skipped:
    """The bytes of a file, or why they cannot be read; `name` is its path below the data's root.

    Raises OSError where no other file could be read either, so that none is passed over for it.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        if is_no_fault_of_the_file(error):
            raise
        return Skipped(name, UNREADABLE, error.strerror or str(error))


def not_an_image(name: str) -> Skipped:
    """What is said of a file that a reader has no use for."""
    suffix = f".{suffix_of(name)}" if "." in name.rpartition("/")[2] else "no suffix"
    return Skipped(name, f"not an image ({suffix})")


def _reason_to_skip(entry: os.DirEntry[str]) -> str | None:
    if entry.name.startswith(".") or entry.name in _NOT_DATA:
        return "hidden"
    try:
        if entry.is_dir():
            return "a folder that Corgi wrote" if is_marked(Path(entry.path)) else None
        if entry.is_file():
            return None
        return "a link that leads nowhere" if entry.is_symlink() else "not a file"
    except OSError as error:  # a circle of links, or a folder that may not be entered
        return f"cannot be read ({error.strerror})"


def _remote_files(root: Path | UPath) -> tuple[Files, list[Skipped]]:
    files: dict[str, Path | UPath] = {}
    skipped = []
    for name in names_below(UPath(root)):
        if any(part.startswith(".") or part in _NOT_DATA for part in name.split("/")):
            skipped.append(Skipped(name, "hidden"))
        else:
            files[name] = root / name
    return dict(sorted(files.items())), skipped
