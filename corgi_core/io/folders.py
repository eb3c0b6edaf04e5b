"""Folders that are whole or absent: by renaming on a local disk, by a pointer on an object store.

On a local disk the old folder is renamed aside, the new one is renamed into its place, and then the
old one is removed:

    .NAME.replaced-1764000000000000000-HOST-PROCESS.tmp      the old folder, until it is removed

Between the two renames `published` gives the old one's new name. Where the writer was killed there,
the next one who asks for the folder renames the old one back.

An object store renames nothing. There, what `atomic_folder` writes to `PATH` becomes a generation
of it, under a name of its own, and one small object, the pointer, says which generation counts:

    PATH/.generation                                   {"generation": "20261127T165500-…"}
    PATH/.generations/20261127T165500-…/config.json    the files

The pointer is written last, in one request, so readers see all of the old folder or all of the new
one, also where the writer is killed. A writer writes in the same words for both kinds of path, and
a reader asks `published` where the files are:

    with atomic_folder(path) as temporary:
        write_json(temporary / "config.json", config)
        with atomic_file(temporary / "model.safetensors") as file:
            save_file(tensors, file)

    folder = published(path)
    config = read_json(folder / "config.json")

The generation that was replaced is removed as soon as the pointer names another, as a local folder
is: who is reading it then must begin again. What a killed writer left is named by no pointer, so it
is never read; the next one who publishes the same path, or joins files to it, removes it once it
was begun a day ago and nothing has been written to it for a day. A younger one may be a living
writer's: an object store has no locks that end with their process.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.files import (
    ABANDONED_AFTER,
    HOST,
    is_local,
    is_running,
    read_json,
    remove_file,
    temporary_beside,
    write_json,
)
from corgi_core.io.markers import (
    GENERATIONS,
    MARKER,
    POINTER,
    check_replaceable,
    files_below,
    mark_folder,
)
from corgi_core.io.object_store import (
    copy_objects,
    details_below,
    download_all,
    entries_of,
    remove_below,
    upload_all,
)

_TIME = "%Y%m%dT%H%M%S"  # how the names of generations begin, in UTC
_ASIDE = ".replaced-"  # in the name of a local folder that makes way for its successor
_set_aside_here: set[str] = set()  # names of those that this process replaces now


@contextmanager
def atomic_folder(path: Path | UPath) -> Iterator[Path | UPath]:
    """Yield a temporary folder; on success it replaces `path` and its content, on failure it goes.

    Raises CorgiError, before anything is written, where `path` holds what Corgi did not write.
    """
    check_replaceable(path)
    if not is_local(path):
        with _generation(UPath(path)) as temporary:
            yield temporary
        return
    with _folder_beside(Path(str(path))) as temporary:
        yield temporary
        mark_folder(temporary, files_below(temporary))
        check_replaceable(path)  # again: writing may have taken hours
        _replace_folder(Path(temporary), Path(str(path)))


@contextmanager
def joining_folder(path: Path | UPath, last: str) -> Iterator[Path | UPath]:
    """Yield a temporary folder; on success its files join those in `path`.

    On failure `path` is as it was. The file `last` comes at the end, so that it may say which
    files count: until then the others are there in vain. On an object store the files are copied
    within the store, without their bytes coming here.

    Raises CorgiError, before anything is written, where `path` holds what Corgi did not write.
    """
    named, path = path, published(path)
    check_replaceable(path)
    if not is_local(path):
        for each in {str(named), str(path)}:
            _remove_abandoned(UPath(each))
    beside = _folder_beside(Path(str(path))) if is_local(path) else _unnamed(UPath(path))
    with beside as temporary:
        yield temporary
        new = [name for name in files_below(temporary) if name != last]
        check_replaceable(path)  # again: writing may have taken hours
        mark_folder(path, {*files_below(path), *new, last})
        if not is_local(path):
            root, made = UPath(path), UPath(temporary)
            copy_objects([(made / name, root / name) for name in new])
            copy_objects([(made / last, root / last)])
            return
        for name in (*new, last):
            (path / name).parent.mkdir(exist_ok=True)
            Path(str(temporary / name)).replace(str(path / name))


def published(folder: Path | UPath) -> Path | UPath:
    """Where the files of a folder are that `atomic_folder` may have written.

    That is the folder itself on a local disk, unless it is being replaced this moment, and where an
    object store has its files in place; one request. Raises CorgiError for a pointer that is no
    pointer.
    """
    if is_local(folder):
        return folder if folder.exists() else _brought_back(folder)
    try:
        generation = str(read_json(folder / POINTER)["generation"])
    except FileNotFoundError:
        return folder
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, CorgiError):
            raise
        raise CorgiError(
            f"{folder / POINTER} is damaged", f"remove {folder}, and run it again"
        ) from error
    return folder / GENERATIONS / generation


def sizes_below(folder: Path | UPath) -> dict[str, int]:
    """The size in bytes of every file below a folder, by its path relative to it."""
    if not is_local(folder):
        return {name: int(about["size"]) for name, about in details_below(UPath(folder))}
    paths = {name: Path(str(folder), name) for name in files_below(folder)}
    return {name: path.stat().st_size for name, path in paths.items() if path.exists()}


def has_files(folder: Path | UPath) -> bool:
    """Whether a folder is there for its readers: on an object store more than what is unfinished.

    One request.
    """
    if is_local(folder):
        return published(folder).exists()
    return any(name != GENERATIONS for name, _ in entries_of(UPath(folder)))


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Yield a new local folder beside `path`, of which nothing is left at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        remove_folder(temporary)


def _replace_folder(temporary: Path, path: Path) -> None:
    """Rename a folder to `path`; one that is there is set aside before, and removed after it."""
    aside = path.parent / f".{path.name}{_ASIDE}{time.time_ns()}-{HOST}-{os.getpid()}.tmp"
    _set_aside_here.add(aside.name)
    try:
        while True:
            with suppress(FileNotFoundError):
                path.rename(aside)
            try:
                temporary.rename(path)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                remove_folder(aside)  # another writer has put its folder in place meanwhile
    except BaseException:
        _brought_back(path, aside)
        raise
    finally:
        _set_aside_here.discard(aside.name)
    for replaced in _set_aside(path):
        if replaced == aside or _is_left_over(replaced):
            shutil.rmtree(replaced, ignore_errors=True)


def _set_aside(path: Path) -> list[Path]:
    """The folders that writers have set aside for their successors at `path`; the latest last."""
    named = re.compile(re.escape(f".{path.name}{_ASIDE}") + r"\d+-[0-9a-f]{6}-\d+\.tmp")
    with suppress(OSError):  # no such folder, or it may not be read
        return sorted(each for each in path.parent.iterdir() if named.fullmatch(each.name))
    return []


def _brought_back(path: Path | UPath, own: Path | None = None) -> Path | UPath:
    """The latest folder that was set aside for one that is not at `path`; `path` without one.

    It is renamed back where its writer, as which `own` counts, will put nothing in its place.
    """
    for latest in _set_aside(Path(str(path)))[-1:]:
        if latest == own or _is_left_over(latest):
            with suppress(OSError):  # another process was quicker, or may write there
                latest.rename(str(path))
        if not path.exists() and latest.exists():
            return type(path)(str(latest))
    return path


def _is_left_over(aside: Path) -> bool:
    """Whether the process that has set a folder aside is gone; this one may have its number."""
    _, host, process = aside.name.removesuffix(".tmp").rsplit("-", 2)
    if host == HOST and int(process) == os.getpid():
        return aside.name not in _set_aside_here
    if host == HOST:
        return not is_running(int(process))
    return aside.stat().st_ctime < time.time() - ABANDONED_AFTER


@contextmanager
def _generation(path: UPath) -> Iterator[UPath]:
    """Yield the folder of a new generation of `path`; on success the pointer names it."""
    generation = _new_name(path)
    try:
        yield generation
        mark_folder(generation, files_below(generation))
        check_replaceable(path)  # again: writing may have taken hours
        before = published(path)
        write_json(path / POINTER, {"generation": generation.name})
    except BaseException:
        with suppress(Exception):  # what cannot be removed now is removed after a day
            if published(path).name != generation.name:  # the store's answer alone may be lost
                remove_below(generation)
        raise
    _remove_replaced(path, UPath(before))


@contextmanager
def _unnamed(path: UPath) -> Iterator[UPath]:
    """Yield a folder that no pointer will ever name, of which nothing is left at the end."""
    temporary = _new_name(path)
    try:
        yield temporary
    finally:
        remove_below(temporary)


def _new_name(path: UPath) -> UPath:
    started = datetime.now(UTC).strftime(_TIME)
    return path / GENERATIONS / f"{started}-{HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _remove_replaced(path: UPath, before: UPath) -> None:
    """Remove what was published `before`, and what killed writers left more than a day ago."""
    if before.name != path.name:
        remove_below(before)
    for name in files_below(path):
        if name not in (MARKER, POINTER):
            remove_file(path / name)
    remove_file(path / MARKER)  # last, as it says that the others are Corgi's
    _remove_abandoned(path)


def _remove_abandoned(path: UPath) -> None:
    """Remove the unfinished generations of `path` that their writers have abandoned."""
    present = published(path).name
    for name, _ in entries_of(path / GENERATIONS):
        if name != present and _is_abandoned(path / GENERATIONS / name):
            remove_below(path / GENERATIONS / name)


def _is_abandoned(generation: UPath) -> bool:
    """Whether a generation was begun a day ago, and nothing has been written to it since."""
    yesterday = datetime.now(UTC) - timedelta(seconds=ABANDONED_AFTER)
    if generation.name[: len("20261127T165500")] > yesterday.strftime(_TIME):
        return False
    written = (about.get("LastModified") for _, about in details_below(generation))
    return all(time is None or time < yesterday for time in written)


def remove_folder(path: Path | UPath) -> None:
    """Remove a folder and all that it holds; no error where there is none."""
    if not is_local(path):
        remove_file(path / POINTER)  # first, so that nobody reads half of the rest
        remove_below(UPath(path))
        return
    for folder in (*_set_aside(Path(str(path))), Path(str(path))):
        if folder.exists():
            shutil.rmtree(folder)


def copy_folder(source: Path | UPath, target: Path | UPath) -> None:
    """Copy a folder's files to `target`, whole or not at all; nothing where both are the same."""
    source = published(source)
    if str(source.absolute()) in (str(target.absolute()), str(published(target).absolute())):
        return
    with atomic_folder(target) as temporary:
        _copy(source, temporary)


@contextmanager
def local_folder(folder: Path | UPath, write: bool = False) -> Iterator[Path]:
    """Yield `folder` itself where it is local, else a temporary copy; `write` uploads it after."""
    if is_local(folder):
        yield Path(str(published(folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        local = Path(temporary)
        _copy(published(folder), local)
        yield local
        if write:
            _copy(local, folder)


def _copy(source: Path | UPath, target: Path | UPath) -> None:
    """Copy all files, several at once where an object store is concerned."""
    if is_local(source) and is_local(target):
        shutil.copytree(str(source), str(target), dirs_exist_ok=True)
    elif is_local(source):
        upload_all(Path(str(source)), UPath(target), files_below(source))
    elif is_local(target):
        download_all(UPath(source), Path(str(target)), files_below(source))
    else:
        origin, copy = UPath(source), UPath(target)
        copy_objects([(origin / name, copy / name) for name in files_below(source)])
