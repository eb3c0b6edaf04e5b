"""DVC owns the bytes of the datasets: assets and `dvc repro` are two ways to the same folders."""

from __future__ import annotations

import ctypes
import io
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import dagster as dg

from corgi_core.errors import CorgiError
from corgi_core.io.full_disk import full_disk_explained
from orchestration.environment import set_for_library
from orchestration.settings import Settings

LOCK = Path("dvc.lock")
COPY = Path(".dvc", "tmp", "dvc.lock.before")  # of LOCK, while DVC writes there
INGEST, GATE = "ingest", "gate"  # stages of dvc.yaml
ROOM = 1 << 16  # bytes, without which SQLite cannot begin to write
PROBE_EVERY = 5.0  # seconds


class DVC(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The DVC project around the datasets; where there is none, nothing is done."""

    enabled: bool

    @classmethod
    def of(cls, settings: Settings) -> DVC:
        """The project that describes the settings' dataset, if any does."""
        return cls(enabled=settings.under_dvc)

    def up_to_date(self, stage: str) -> bool:
        """Whether the stage's output lies there as in dvc.lock, made from the present inputs."""
        if not self.enabled or stage not in recorded_stages(LOCK):
            return False
        with _repository() as repository:
            return not repository.status(targets=[stage])

    def commit(self, stage: str) -> str | None:
        """Record the stage's output as its present one; returns its version, as in dvc.lock.

        Raises:
            CorgiError: DVC cannot record it, or not store it in its cache, which it says of a full
                disk in a log alone. Then dvc.lock is as it was.
        """
        if not self.enabled:
            return None
        with (
            full_disk_explained(LOCK.absolute().parent),
            _repository() as repository,
            _lock_put_back(repository),
        ):
            with _ended_without_room(Path(repository.site_cache_dir)):
                repository.commit(stage, force=True)
            if repository.status(targets=[stage]):
                raise CorgiError(
                    f"DVC could not store the data of {stage} in its cache",
                    "free space on the disk of .dvc/cache, let this user write there, and "
                    "materialise again; the data lie where they are",
                )
            return version_in_lock(LOCK, stage)


def recorded_stages(lock: Path) -> dict[str, Any]:
    """The stages in dvc.lock; none where there is no such file."""
    import yaml

    if not lock.exists():
        return {}
    try:
        stages: dict[str, Any] = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"] or {}
        return stages
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise CorgiError(
            f"{lock} cannot be read: {str(error).splitlines()[0]}",
            f"bring it back with `git checkout {lock}`, or end the merge that it is in",
        ) from error


def version_in_lock(lock: Path, stage: str) -> str | None:
    """DVC's digest of the stage's output, which is the asset's data version."""
    outputs = recorded_stages(lock).get(stage, {}).get("outs", [])
    return str(outputs[0]["md5"]) if outputs else None


@contextmanager
def _lock_put_back(repository: Any) -> Iterator[None]:
    """Where the block fails, dvc.lock is as it was: DVC writes it in place, also half.

    The copy is made before, as a disk that is full takes none. DVC's own lock is held meanwhile:
    what another command records, before or after, stays.
    """
    from dvc.repo import lock_repo

    with lock_repo(repository), _copy_put_back():
        yield


@contextmanager
def _copy_put_back() -> Iterator[None]:
    there = LOCK.exists()
    try:
        if there:
            COPY.parent.mkdir(exist_ok=True)
            shutil.copyfile(LOCK, COPY)
        try:
            yield
        except BaseException:
            if there:
                COPY.replace(LOCK)
            else:
                LOCK.unlink(missing_ok=True)
            raise
    finally:
        COPY.unlink(missing_ok=True)


class _NoRoom(BaseException):
    """Not an Exception, which DVC would catch and log."""


@contextmanager
def _ended_without_room(folder: Path) -> Iterator[None]:
    """End the block where DVC would try for ever to write its records into a folder.

    Its library diskcache begins a transaction again and again while SQLite cannot, also on a disk
    that has become full. A second thread tries to write there too; where it has failed twice, it
    raises an error in this thread.

    Raises:
        CorgiError: there is no room.
    """
    done, caller = threading.Event(), threading.get_ident()

    def watch() -> None:
        failures = 0
        while not done.wait(PROBE_EVERY):
            failures = 0 if _has_room(folder) else failures + 1
            if failures == 2:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(caller), ctypes.py_object(_NoRoom)
                )
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        try:
            yield
        finally:
            done.set()
            watcher.join()
    except _NoRoom:
        raise _cannot_write(folder, "its disk is full") from None


def _has_room(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(ROOM))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    return True


def _cannot_write(folder: Path | str, why: str) -> CorgiError:
    return CorgiError(
        f"DVC cannot write its records into {folder}: {why}",
        "free space on its disk, or name a folder on another one by DVC_SITE_CACHE_DIR, and "
        "materialise again; the data lie where they are",
    )


@contextmanager
def _repository() -> Iterator[Any]:
    set_for_library({"DVC_NO_ANALYTICS": "1"})
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.rwlock import RWLockFileCorruptedError, RWLockFileFormatError

    try:
        with redirect_stdout(io.StringIO()), Repo(".") as repository:
            yield repository
    except LockError as error:
        holder = " ".join(str(error).partition("\n\n")[0].split())
        raise CorgiError(
            f"another DVC command is at work here: {holder}",
            "wait for it and run again; if none runs, remove .dvc/tmp/lock and .dvc/tmp/rwlock",
        ) from error
    except (RWLockFileCorruptedError, RWLockFileFormatError) as error:
        raise CorgiError(
            f"DVC's record of who is at work is torn: {error}",
            "make sure that no DVC command runs, remove .dvc/tmp/rwlock, and run again",
        ) from error
    except sqlite3.OperationalError as error:
        from dvc.dirs import site_cache_dir

        raise _cannot_write(site_cache_dir(), str(error)) from error
    except DvcException as error:
        raise CorgiError(
            f"DVC cannot record the data: {error}",
            "run `dvc status` to see why; without a .dvc folder Corgi works without DVC",
        ) from error
