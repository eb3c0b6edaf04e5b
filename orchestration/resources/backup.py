"""Backups: one tar with all of CORGI_HOME, each content once, and the databases in a whole state.

SQLite files are copied by SQLite's own backup, so runs may go on meanwhile; PostgreSQL is dumped by
`pg_dump`. The databases come first: what they name is in the files that follow. A file is read
once, into a copy whose digest names it: a log may grow meanwhile. Models that are stored and
registered have the same content, which is in the tar once. What lies elsewhere, such as artefacts
on an object store, is named.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file, is_local
from corgi_core.io.scratch import scratch_folder
from orchestration.settings import POSTGRES, Settings

FORMAT = 1  # of the tar; raised when another Corgi could not read it
INDEX, CONTENTS = "index.json", "contents"
SQLITE_MAGIC = b"SQLite format 3\0"
BESIDE_SQLITE = ("-wal", "-shm", "-journal")  # of a database that is in use
LEFT_OUT = ("work",)  # below a workspace: unfinished trainings
CHUNK = 2**20  # bytes
SQLITE = "sqlite:///"  # of an address, before the file's path
DATABASES = {"dagster": "CORGI_DATABASE_URL", "mlflow": "CORGI_MLFLOW_DATABASE_URL"}


@dataclass
class Index:
    """What a backup holds.

    Attributes:
        home: The folder that it is of: its files name each other by whole paths.
        moment: When it was made, in seconds since 1970.
        files: Content's digest, moment of change in nanoseconds and mode, by path below the home.
        databases: Content's digest of PostgreSQL's dumps, by name.
        elsewhere: What it does not hold and a restored home needs, for people.
        mode: The home's.
        format: Of the tar.
    """

    home: str
    moment: float
    files: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    databases: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)
    mode: int = 0o700
    format: int = FORMAT


def back_up(settings: Settings, path: Path) -> Index:
    """Write a backup of all workspaces of the settings' home; it appears whole or not at all.

    Raises:
        CorgiError: there is nothing to back up, the file lies in the home, or PostgreSQL's client
            failed.
    """
    home = settings.home
    if not home.is_dir():
        raise CorgiError(f"there is no {home}", "name the home by CORGI_HOME")
    if path.absolute().is_relative_to(home):
        raise CorgiError(f"{path} lies in {home}", "name a file on another disk")
    mode = home.stat().st_mode & 0o777
    index = Index(str(home), time.time(), elsewhere=_elsewhere(settings), mode=mode)
    with (
        atomic_file(path) as temporary,
        tarfile.open(temporary, "w") as tar,
        scratch_folder("corgi-backup-", path.absolute().parent) as scratch,  # which has the room
    ):
        archive = _Archive(tar, scratch / "content")
        for name, url in _postgres_urls(settings).items():
            dump = scratch / f"{name}.dump"
            dump_database(url, dump)
            index.databases[name] = archive.add(dump)
        for database in filter(_is_sqlite, _files_of(home)):
            copy = scratch / "copy.db"
            _copy_sqlite(database, copy)
            index.files[_name(database, home)] = (archive.add(copy), *_about(database))
            copy.unlink()
        for file in _files_of(home):
            name = _name(file, home)
            if name not in index.files:
                try:
                    index.files[name] = (archive.add(file), *_about(file))
                except FileNotFoundError:  # a run has replaced it
                    continue
        content = json.dumps(asdict(index)).encode()
        entry = tarfile.TarInfo(INDEX)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return index


def restore(settings: Settings, path: Path) -> Index:
    """Make the home again from a backup: whole and checked, or not at all.

    Raises:
        CorgiError: the file is gone, no backup or damaged, it is of another home, the home is there
            already, or so are tables in a database.
    """
    if not path.is_file():
        raise CorgiError(f"there is no file {path}", "name one that `corgi backup` wrote")
    try:
        with tarfile.open(path) as tar:
            index = _index_of(tar, path)
            _check_target(settings, index, path)
            home = settings.home
            home.parent.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=f"{home.name}-restored-", dir=home.parent))
            try:
                _extract(tar, index, new, path)
                _load_dumps(tar, index, _postgres_urls(settings), new, path)
                new.chmod(index.mode)
                if home.exists():
                    home.rmdir()
                new.replace(home)
            finally:
                shutil.rmtree(new, ignore_errors=True)
    except (EOFError, tarfile.TarError) as error:
        raise CorgiError(
            f"{path} cannot be read ({error})", "name a file that `corgi backup` wrote"
        ) from error
    return index


def dump_database(url: str, path: Path) -> None:
    """Write what is in a PostgreSQL database to a file, by `pg_dump`."""
    _client("pg_dump", "--format=custom", "--no-owner", f"--file={path}", _plain(url))


def load_database(path: Path, url: str) -> None:
    """Put a dump's content into an empty PostgreSQL database, by `pg_restore`: all or nothing.

    Raises:
        CorgiError: the database has tables already, or PostgreSQL's client failed.
    """
    check_empty(url)
    _client(
        "pg_restore", "--no-owner", "--exit-on-error", "--single-transaction",
        f"--dbname={_plain(url)}", str(path),
    )  # fmt: skip


def check_empty(url: str) -> None:
    """CorgiError where a PostgreSQL database has tables."""
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    found = _client("psql", "-At", "-c", tables, _plain(url)).strip()
    if found != "0":
        raise CorgiError(
            f"the database {_database_of(url)} has {found} tables already",
            "restore into one that was just created",
        )


class _Archive:
    """Adds contents to a tar, each once."""

    def __init__(self, tar: tarfile.TarFile, copy: Path) -> None:
        """`copy`: where a content is while it is added."""
        self._tar, self._copy, self._there = tar, copy, set[str]()

    def add(self, path: Path) -> str:
        """The digest of the content as it was read: somebody may write to the file meanwhile."""
        with path.open("rb") as file, self._copy.open("w+b") as copy:
            digest = _copied(file, copy)
            if digest not in self._there:
                entry = tarfile.TarInfo(f"{CONTENTS}/{digest}")
                entry.size = copy.tell()
                copy.seek(0)
                self._tar.addfile(entry, copy)
                self._there.add(digest)
        return digest


def _files_of(home: Path) -> Iterator[Path]:
    """Every file to be stored; what an unfinished training holds is made again."""
    for folder, folders, names in os.walk(home):
        if Path(folder).parent == home:
            folders[:] = [name for name in folders if name not in LEFT_OUT]
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            database = next((name.removesuffix(s) for s in BESIDE_SQLITE if name.endswith(s)), None)
            if path.is_file() and not path.is_symlink() and database not in names:
                yield path


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    except FileNotFoundError:  # a run has replaced it
        return False


def _copy_sqlite(path: Path, copy: Path) -> None:
    source, target = sqlite3.connect(path), sqlite3.connect(copy)
    try:
        source.backup(target)
    finally:
        source.close()
        target.close()


def _about(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_mode & 0o777


def _name(path: Path, home: Path) -> str:
    return path.relative_to(home).as_posix()


def _index_of(tar: tarfile.TarFile, path: Path) -> Index:
    try:
        file = tar.extractfile(INDEX)
        assert file is not None
        index = Index(**json.load(file))
    except (KeyError, AssertionError, TypeError, ValueError) as error:
        raise CorgiError(
            f"{path} is no backup of Corgi's", "name a file that `corgi backup` wrote"
        ) from error
    if index.format != FORMAT:
        raise CorgiError(f"{path} is of another version of Corgi", "restore it by that version")
    return index


def _check_target(settings: Settings, index: Index, path: Path) -> None:
    home = settings.home
    if str(home) != index.home:
        raise CorgiError(
            f"{path} is of {index.home}, whose files name each other by whole paths",
            f"restore with CORGI_HOME={index.home}",
        )
    if home.exists() and any(home.iterdir()):
        raise CorgiError(f"{home} is there already", "move it away first, nothing is overwritten")
    if home.is_mount():
        raise CorgiError(
            f"{home} is a disk of its own, which cannot appear whole or not at all",
            "let CORGI_HOME be a folder on it, for the backup too",
        )
    urls = _postgres_urls(settings)
    for name in index.databases.keys() - urls.keys():
        raise CorgiError(
            f"{path} has a dump of the database of {name}, and none to load it into is named",
            f"name an empty one by {DATABASES[name]}",
        )
    for name, url in urls.items():
        if name not in index.databases:
            raise CorgiError(
                f"{path} has no dump of the database of {name}",
                "restore with the settings that it was made with",
            )
        check_empty(url)


def _extract(tar: tarfile.TarFile, index: Index, folder: Path, path: Path) -> None:
    for name, (digest, moment, mode) in index.files.items():
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise CorgiError(f"{path} names a file outside of the home", "do not restore it")
        target = folder / parts
        target.parent.mkdir(parents=True, exist_ok=True)
        _extract_content(tar, digest, target, path)
        target.chmod(mode)
        os.utime(target, ns=(moment, moment))


def _extract_content(tar: tarfile.TarFile, digest: str, target: Path, path: Path) -> None:
    damaged = CorgiError(f"{path} is damaged at {digest[:12]}", "take another backup")
    try:
        source = tar.extractfile(f"{CONTENTS}/{digest}")
    except KeyError:
        source = None
    if source is None:
        raise damaged
    with target.open("xb") as file:
        if _copied(source, file) != digest:
            raise damaged


def _copied(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy a stream; the digest of its content."""
    found = hashlib.sha256()
    while chunk := source.read(CHUNK):
        found.update(chunk)
        target.write(chunk)
    return found.hexdigest()


def _load_dumps(
    tar: tarfile.TarFile, index: Index, urls: dict[str, str], folder: Path, path: Path
) -> None:
    """Fill the databases, once the dumps of all are found to be whole."""
    dumps = {name: folder / f"{name}.dump" for name in urls}
    for name, dump in dumps.items():
        _extract_content(tar, index.databases[name], dump, path)
    filled: list[str] = []
    for name, url in urls.items():
        try:
            load_database(dumps[name], url)
        except CorgiError as error:
            if not filled:
                raise
            raise CorgiError(
                error.problem,
                f"{error.remedy}; create {', '.join(filled)} anew first, which is filled already",
            ) from error
        filled.append(_database_of(url))
        dumps[name].unlink()


def _postgres_urls(settings: Settings) -> dict[str, str]:
    """The addresses by name; of a database that Dagster and MLflow share, once."""
    found: dict[str, str] = {}
    urls = settings.database_url, settings.mlflow_database
    for name, url in zip(DATABASES, urls, strict=True):
        if url and url.startswith(POSTGRES) and url not in found.values():
            found[name] = url
    return found


def _elsewhere(settings: Settings) -> list[str]:
    """What the home's history refers to, and no backup of it holds."""
    found = [f"datasets in {settings.data}"]
    if not _is_below(settings.home, settings.storage):
        found.append(f"artefacts in {settings.storage}")
    if not _is_below(settings.home, settings.reports):
        found.append(f"reports in {settings.reports}")
    if settings.tracking_uri.startswith(SQLITE):
        database = Path(settings.tracking_uri.removeprefix(SQLITE))
        if not _is_below(settings.home, database):
            found.append(f"MLflow's database {database}")
    if settings.mlflow_is_served:
        found.append(f"the files of MLflow's runs, where {settings.tracking_uri} stores them")
        if settings.mlflow_database is None:
            found.append("that server's database, which CORGI_MLFLOW_DATABASE_URL does not name")
    return found


def _is_below(home: Path, path: Path | UPath) -> bool:
    return is_local(path) and Path(str(path)).absolute().is_relative_to(home)


def _database_of(url: str) -> str:
    """The name of an address's database."""
    return urlsplit(url).path.strip("/")


def _plain(url: str) -> str:
    """The address as PostgreSQL's own programs read it."""
    return "postgresql://" + url.removeprefix(POSTGRES).removeprefix("postgresql://")


def _client(program: str, *words: str) -> str:
    try:
        done = subprocess.run([program, *words], capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise CorgiError(
            f"{program} is not installed", "install PostgreSQL's client (postgresql-client)"
        ) from error
    except subprocess.CalledProcessError as error:
        raise CorgiError(
            f"{program} failed: {error.stderr.strip()}", "see to the database, and try again"
        ) from error
    return done.stdout
