"""How the nodes of a cluster reach one training: by a run folder that all share, or by a storage.

With a storage each worker trains in a scratch folder of its own node, and what is to outlive the
node is copied there:

    owner                        the driver that the workers belong to, by its nonce
    prepared/                    the run's identity, and what its task prepared for all workers
    prepared.json                that folder's files, with their SHA-256
    checkpoints/step-000200/     state.json is copied last, so it means "whole"
    metrics.jsonl
    final.safetensors, finished.json                 in this order

The driver fetches the metrics as they come, and the result at the end.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file, digest_of_file, is_local, read_json, write_json
from corgi_core.io.folders import atomic_folder, remove_folder
from corgi_core.io.object_store import store_errors, upload
from corgi_core.io.scratch import scratch_folder
from corgi_core.training.checkpoint import (
    DAMAGE,
    checked_state,
    checkpoints_of,
    newest_step,
    step_of,
)
from corgi_core.training.identity import claim

OWNER, PREPARED, METRICS, FINISHED = "owner", "prepared", "metrics.jsonl", "finished.json"
WEIGHTS, STATE, LOCK = "final.safetensors", "state.json", "lock"
OF_THE_RUN = {OWNER, METRICS, FINISHED, WEIGHTS, LOCK}  # files that are not prepared
ATTEMPT = "ray"  # the folder in a run folder that ends with the driver's attempt
COPIED_EVERY = 2.0  # seconds between two copies of the metrics
PATIENCE = 3.0  # seconds in which a network's file system shows what another machine has written
POLL = 0.2  # seconds between two looks
STORAGE_PATIENCE = 300.0  # seconds for a storage to take a checkpoint …
RETRY_AFTER = 5.0  # … and between two attempts

log = logging.getLogger(__name__)


class _TakenOverError(CorgiError):
    """Another driver trains."""


@dataclass(frozen=True)
class SharedRun:
    """A training in a run folder that all nodes have at the same path."""

    folder: Path
    nonce: str = field(default_factory=lambda: uuid.uuid4().hex)  # names the driver

    def publish(self, run_folder: Path, identity: dict[str, str]) -> None:
        """Let workers know this driver's run."""
        _write_owner(self.folder / ATTEMPT, self.nonce)

    def check_reached(self, machine: str) -> None:
        """Raise CorgiError unless the driver's run is reached from here, which is `machine`."""
        if _owner_differs(self.folder / ATTEMPT, self.nonce, PATIENCE):
            raise CorgiError(
                f"{machine} does not share the run folder {self.folder}",
                "let CORGI_STORAGE name a storage that all nodes reach, or CORGI_HOME a folder "
                "that all have at the same path, or train on one machine, without "
                "CORGI_RAY_ADDRESS",
            )

    def opened(self, rank: int) -> AbstractContextManager[Path | None]:
        """The folder that the worker trains in; None where nothing is left to do."""
        return nullcontext(self.folder)

    def copy_progress(self, run_folder: Path) -> None:
        """Nothing: the driver sees the folder."""

    def followed(self, run_folder: Path) -> AbstractContextManager[None]:
        """The same."""
        return nullcontext()

    def fetch_result(self, run_folder: Path) -> None:
        """The same."""

    def newest_step(self) -> int:
        """The step of the newest checkpoint; 0 without one."""
        return newest_step(self.folder)


@dataclass(frozen=True)
class StoredRun:
    """A training whose copy is in `folder`, a folder or URL that all nodes reach."""

    folder: UPath
    nonce: str = field(default_factory=lambda: uuid.uuid4().hex)  # names the driver

    def publish(self, run_folder: Path, identity: dict[str, str]) -> None:
        """Take the copy over for this driver, and copy what its run folder has prepared.

        Raises CorgiError where the copy belongs to another training, and where the storage cannot
        be reached.
        """
        with store_errors(self.folder):
            claim(self.folder / PREPARED, identity)
        files = [file for file in sorted(run_folder.iterdir()) if _is_prepared(file)]
        for file in files:
            _copy(file, self.folder / PREPARED / file.name)
        digests = {file.name: digest_of_file(file) for file in files}
        write_json(self.folder / f"{PREPARED}.json", digests)
        _write_owner(self.folder, self.nonce)

    def check_reached(self, machine: str) -> None:
        """Raise CorgiError unless the driver's run is reached from here, which is `machine`."""
        if reason := _owner_differs(self.folder, self.nonce, PATIENCE):
            raise CorgiError(
                f"{machine} does not reach the training's storage {self.folder} ({reason})",
                "let CORGI_STORAGE name a folder or URL that all nodes reach, and give each node "
                "the variables with its credentials before `ray start`",
            )

    @contextmanager
    def opened(self, rank: int) -> Iterator[Path | None]:
        """Yield a scratch folder from which the worker goes on; None where the run is finished.

        While the block runs, the metrics log of worker 0 is copied to the storage as it grows.
        """
        if self.is_finished:
            yield None
            return
        with scratch_folder("corgi-run-") as run_folder:
            self.fetch(run_folder)
            metrics = lambda: self._copy_metrics(run_folder)  # noqa: E731
            with _repeated(metrics) if rank == 0 else nullcontext():
                yield run_folder

    def fetch(self, run_folder: Path) -> None:
        """Copy to a run folder what a worker starts from: the newest whole checkpoint, above all.

        Raises CorgiError where what was prepared has been damaged.
        """
        for name, digest in read_json(self.folder / f"{PREPARED}.json").items():
            _copy(self.folder / PREPARED / name, run_folder / name)
            if digest_of_file(run_folder / name) != digest:
                raise CorgiError(
                    f"{self.folder / PREPARED / name} is damaged: its SHA-256 is wrong",
                    f"remove {self.folder}, and train again",
                )
        if (self.folder / METRICS).exists():
            _copy(self.folder / METRICS, run_folder / METRICS)
        for stored in self._whole_checkpoints():
            target = run_folder / "checkpoints" / stored.name
            with atomic_folder(target) as temporary:  # what fails here says nothing of the copy
                for file in stored.iterdir():
                    _copy(file, temporary / file.name)
            try:
                checked_state(target)
                return
            except DAMAGE as damage:
                log.warning("checkpoint %s is damaged (%s); one before it is used", stored, damage)
                remove_folder(target)
                (stored / STATE).unlink(missing_ok=True)

    def copy_progress(self, run_folder: Path) -> None:
        """Copy the checkpoints that are not there yet, or the result where the run is finished.

        A storage that does not answer is asked again for some minutes, while the workers wait.

        Raises CorgiError where another driver has taken the training over; and what the storage
        raises in the end.
        """
        deadline = time.monotonic() + STORAGE_PATIENCE
        while True:
            try:
                self._copy_progress(run_folder)
            except _TakenOverError:
                raise
            except Exception as failure:  # whatever a storage's library raises
                if time.monotonic() > deadline:
                    raise
                log.warning("%s does not take the checkpoint, and is asked again: %s",
                            self.folder, failure)  # fmt: skip
                time.sleep(RETRY_AFTER)
            else:
                return

    def _copy_progress(self, run_folder: Path) -> None:
        if (self.folder / OWNER).read_text(encoding="utf-8") != self.nonce:
            raise _TakenOverError(
                f"another job has begun to train in {self.folder}",
                "let that one end, or stop it and train again; the newest checkpoint is taken up",
            )
        self._copy_metrics(run_folder)
        here = checkpoints_of(run_folder)
        for checkpoint in here:
            stored = self.folder / "checkpoints" / checkpoint.name
            if not (stored / STATE).exists():
                names = (file.name for file in checkpoint.iterdir())
                for name in sorted(names, key=lambda name: (name == STATE, name)):
                    _copy(checkpoint / name, stored / name)
        if (run_folder / FINISHED).exists():
            _copy(run_folder / WEIGHTS, self.folder / WEIGHTS)
            _copy(run_folder / FINISHED, self.folder / FINISHED)
        for stored in checkpoints_of(self.folder):
            if not here or step_of(stored) < step_of(here[-1]):
                remove_folder(stored)

    def fetch_result(self, run_folder: Path) -> None:
        """Copy the result of a finished run to a run folder; nothing where there is none.

        Raises CorgiError where the storage cannot be reached, or its weights are damaged.
        """
        with store_errors(self.folder):
            if not self.is_finished or _has_result(run_folder):
                return
            for name in (METRICS, WEIGHTS, FINISHED):
                _copy(self.folder / name, run_folder / name)
        if not _has_result(run_folder):
            raise CorgiError(
                f"{self.folder / WEIGHTS} is damaged: its SHA-256 is wrong",
                f"remove {self.folder}, and train again",
            )

    @property
    def is_finished(self) -> bool:
        """Whether the result is there."""
        return (self.folder / FINISHED).exists()

    def newest_step(self) -> int:
        """The step of the newest whole checkpoint; 0 without one."""
        return max(map(step_of, self._whole_checkpoints()), default=0)

    @contextmanager
    def followed(self, run_folder: Path) -> Iterator[None]:
        """While the block runs, copy the metrics log from the storage to the driver's folder."""
        known: dict[str, Any] = {}

        def fetch() -> None:
            path = self.folder / METRICS
            with suppress(FileNotFoundError):
                found = path.fs.info(path.path)
                if found != known:
                    _copy(path, run_folder / METRICS)
                    known.clear()
                    known.update(found)

        with _repeated(fetch):
            yield

    def _whole_checkpoints(self) -> list[UPath]:
        """Checkpoints with a state.json, the newest first; the others were not copied whole."""
        stored = checkpoints_of(self.folder)
        return [checkpoint for checkpoint in stored if (checkpoint / STATE).exists()]

    def _copy_metrics(self, run_folder: Path) -> None:
        if (run_folder / METRICS).exists():
            _copy(run_folder / METRICS, self.folder / METRICS)


def _write_owner(folder: Path | UPath, nonce: str) -> None:
    with atomic_file(folder / OWNER) as temporary:
        temporary.write_text(nonce, encoding="utf-8")


def _owner_differs(folder: Path | UPath, nonce: str, patience: float) -> str:
    """Why the driver that owns the run there is not the one of that nonce; "" where it is."""
    deadline = time.monotonic() + patience
    while True:
        try:
            owner = (folder / OWNER).read_text(encoding="utf-8")
            reason = "" if owner == nonce else "it has another driver's training"
        except Exception as failure:  # whatever a storage's library raises
            reason = str(failure) or type(failure).__name__
        if not reason or time.monotonic() >= deadline:
            return reason
        time.sleep(POLL)


def _has_result(run_folder: Path) -> bool:
    """Whether a run folder holds a result, and the weights that it names."""
    if not ((run_folder / FINISHED).exists() and (run_folder / WEIGHTS).exists()):
        return False
    wanted: str = read_json(run_folder / FINISHED)["sha256"]
    return digest_of_file(run_folder / WEIGHTS) == wanted


def _is_prepared(file: Path) -> bool:
    return file.is_file() and file.name not in OF_THE_RUN and not file.name.endswith(".tmp")


def _copy(source: Path | UPath, target: Path | UPath) -> None:
    """Copy one file, whole or not at all, a part of it in memory at a time."""
    if not is_local(target):
        upload(Path(str(source)), UPath(target))
        return
    with (
        atomic_file(target) as temporary,
        source.open("rb") as reading,
        temporary.open("wb") as writing,
    ):
        shutil.copyfileobj(reading, writing, 1 << 24)


@contextmanager
def _repeated(action: Callable[[], None]) -> Iterator[None]:
    """While the block runs, call `action` in a thread every few seconds, and once at the end.

    What it raises is logged, and never reaches the block.
    """

    def attempt() -> None:
        try:
            action()
        except Exception as failure:
            log.warning("metrics wait for the next attempt: %s", failure)

    def run() -> None:
        while not stop.wait(COPIED_EVERY):
            attempt()

    stop = threading.Event()
    thread = threading.Thread(target=run, name="metrics_copy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        attempt()
