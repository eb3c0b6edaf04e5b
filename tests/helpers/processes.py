"""Trainings in processes of their own, one a worker, to be killed or to kill themselves."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from corgi_core.config import TrainingSettings
from corgi_core.training.loop import train
from corgi_core.training.task import Task

# A server that has imported everything forks each process in milliseconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [f"tests.helpers.{name}" for name in ("processes", "tiny", "tiny_prior", "cascades")]
    + ["torch._dynamo"]
)


def start_server() -> None:
    """Start the server now: a process that forks has one, whoever is the first to need it."""
    forkserver.ensure_running()


Moment = tuple[str, str]
"""An operation on a file in a run's folder: ("os.rename", "checkpoints/step-000020")."""

WATCHED = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")


def start(
    task: Task,
    settings: TrainingSettings,
    folder: Path,
    workers: int = 1,
    die_at: int | None = None,
    dying: int = 0,
    timeout: float = 60.0,
) -> list[BaseProcess]:
    """Start the workers of a training; the one of rank `dying` is killed by SIGKILL just before
    its operation number `die_at` on a file in the run's folder. Their collectives have a timeout,
    in seconds."""
    port = free_port()
    started = []
    for rank in range(workers):
        moment = die_at if rank == dying else None
        process = PROCESSES.Process(
            target=_work,
            args=(task, settings, folder, rank, workers, port, moment, timeout),
            daemon=True,
        )
        process.start()
        started.append(process)
    return started


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def join_group(rank: int, workers: int, port: int, timeout: float) -> None:
    """Join this process to torch's process group; the timeout is in seconds."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group(
        "gloo", rank=rank, world_size=workers, timeout=timedelta(seconds=timeout)
    )


def finish(processes: list[BaseProcess]) -> list[int | None]:
    """Wait for the workers' ends; as Ray does, kill the others once one has died. Exit codes."""
    while any(process.is_alive() for process in processes):
        for process in processes:
            process.join(0.02)
        if any(process.exitcode for process in processes):
            for process in processes:
                process.kill()
    return [process.exitcode for process in processes]


def run(task: Task, settings: TrainingSettings, folder: Path, workers: int = 1) -> None:
    """Train undisturbed, and succeed."""
    codes = finish(start(task, settings, folder, workers))
    assert codes == [0] * workers, codes


def run_each(function: Callable[..., None], *arguments: object, workers: int = 2) -> None:
    """Run function(rank, *arguments) in so many processes to their ends, and succeed."""
    torch.multiprocessing.start_processes(
        function, arguments, nprocs=workers, start_method="forkserver"
    )


def watch_files(folder: Path, heard: Callable[[Moment], None]) -> None:
    """Call `heard` just before every operation of this process on a file in `folder`, for good."""
    inside = str(folder) + os.sep

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in WATCHED:
            path = os.fspath(arguments[event == "os.rename"])  # type: ignore[call-overload]
            if isinstance(path, str) and path.startswith(inside):
                heard((event, path.removeprefix(inside)))

    sys.addaudithook(hook)


def moments_of(task: Task, settings: TrainingSettings, folder: Path) -> list[Moment]:
    """The operations on files in its folder, in order, of an undisturbed training there."""
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_watched, args=(task, settings, folder, sender))
    process.start()
    moments: list[Moment] = receiver.recv()
    process.join()
    return moments


def _watched(task: Task, settings: TrainingSettings, folder: Path, sender: Connection) -> None:
    torch.set_num_threads(1)
    moments: list[Moment] = []
    watch_files(folder, moments.append)
    train(task, settings, folder)
    sender.send(moments)


def _work(
    task: Task,
    settings: TrainingSettings,
    folder: Path,
    rank: int,
    workers: int,
    port: int,
    die_at: int | None,
    timeout: float,
) -> None:
    torch.set_num_threads(1)
    if die_at is not None:
        left = iter(range(die_at, -1, -1))
        watch_files(folder, lambda _: None if next(left) else os.kill(os.getpid(), signal.SIGKILL))
    if workers > 1:
        join_group(rank, workers, port, timeout)
    train(task, settings, folder, rank=rank, world_size=workers)
    if workers > 1:
        torch.distributed.destroy_process_group()
