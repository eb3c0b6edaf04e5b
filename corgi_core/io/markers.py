"""Which files of a folder Corgi wrote, so that it never replaces anything else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file, is_local, read_json
from corgi_core.io.object_store import entries_of, names_below

MARKER = ".written-by-corgi"  # in every folder that Corgi wrote: the list of its files
# On an object store, see `folders`: what names the present generation of a folder, and all of them.
POINTER, GENERATIONS = ".generation", ".generations"
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


def check_replaceable(path: Path | UPath) -> None:
    """Raise CorgiError where replacing the folder `path` would destroy what Corgi did not write.

    An absent or empty folder may be replaced, and one that holds only files that Corgi wrote there
    (and those that file managers leave everywhere).
    """
    remedy = "move it away, or choose another name or folder for what Corgi writes"
    if is_local(path) and Path(str(path)).is_symlink():
        raise CorgiError(f"{path} is a link, and Corgi replaces only folders of its own", remedy)
    if is_local(path) and not path.exists():
        return
    while True:
        state = _state_of(path)
        try:
            foreign = _foreign_file(path)
        except NotADirectoryError as error:
            problem = f"{path} is a file, where a folder would be written"
            raise CorgiError(problem, remedy) from error
        if foreign is None:
            return
        if state == _state_of(path):  # and no other writer has replaced it meanwhile
            raise CorgiError(f"{path} holds {foreign}, which Corgi did not write", remedy)


def mark_folder(folder: Path | UPath, files: Iterable[str]) -> None:
    """Leave in `folder` the list of the files in it that are Corgi's, relative to it."""
    content = {"files": sorted(set(files) - {MARKER})}
    marker = folder / MARKER
    with suppress(FileNotFoundError, json.JSONDecodeError):
        if read_json(marker) == content:
            return
    with atomic_file(marker) as temporary:
        temporary.write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")


def is_marked(folder: Path | UPath) -> bool:
    """Whether Corgi wrote this folder; folders of versions that wrote no marker are not known."""
    names = (MARKER,) if is_local(folder) else (MARKER, POINTER)
    return any((folder / name).is_file() for name in names)


def _state_of(folder: Path | UPath) -> tuple[int, int] | None:
    """What changes where another folder comes to a local path; None on an object store."""
    if is_local(folder):
        with suppress(FileNotFoundError):
            found = Path(str(folder)).stat()
            return found.st_ino, found.st_ctime_ns
    return None


def _foreign_file(folder: Path | UPath) -> str | None:
    """The first file in `folder` that Corgi did not write there, relative to it; None without."""
    names = (name for name in files_below(folder) if name not in (MARKER, POINTER))
    found = [name for name in names if not _SYSTEM_FILES.fullmatch(name.rpartition("/")[2])]
    try:
        ours = set(read_json(folder / MARKER)["files"])
    except FileNotFoundError:
        return None if not found or _written_before_markers(folder, found) else found[0]
    except CorgiError:  # a store that does not answer
        raise
    except (ValueError, KeyError, TypeError):
        ours = set()
    return next((name for name in found if name not in ours), None)


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
            with suppress(json.JSONDecodeError, TypeError):
                return keys <= set(read_json(folder / name))
    return False


def files_below(folder: Path | UPath) -> list[str]:
    """Every file below `folder`, relative to it, sorted; links are files.

    On an object store those of generations are left out. Raises NotADirectoryError for a file.
    """
    if not is_local(folder):
        return _objects_below(UPath(folder))
    if Path(str(folder)).is_file():
        raise NotADirectoryError(str(folder))
    top, found = str(folder), []
    for parent, folders, files in os.walk(top):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        found += [Path(parent, name).relative_to(top).as_posix() for name in (*files, *links)]
    return sorted(found)


def _objects_below(folder: UPath) -> list[str]:
    found = []
    for name, is_folder in entries_of(folder):
        if not is_folder:
            found.append(name)
        elif name != GENERATIONS:
            found += [f"{name}/{below}" for below in names_below(folder / name)]
    return sorted(found)
