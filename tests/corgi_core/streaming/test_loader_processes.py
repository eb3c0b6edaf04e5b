"""Processes that compute for a training: in order, and never longer than it lives."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from corgi_core.errors import CorgiError
from corgi_core.streaming.loader_processes import LoaderProcesses
from tests.helpers.patience import PATIENCE

ROOT = Path(__file__).parents[3]
PROGRAM = """
import multiprocessing, os, signal
from corgi_core.streaming.loader_processes import LoaderProcesses
with LoaderProcesses.started(2) as processes:
    list(processes.each(abs, range(4)))
    print(*[process.pid for process in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_results_come_in_order_and_no_process_is_left() -> None:
    with LoaderProcesses.started(2) as processes:
        assert list(processes.each(abs, [-3, 2, -1])) == [3, 2, 1]
        with pytest.raises(TypeError):
            list(processes.each(len, [3]))
        assert list(processes.each(abs, [-3])) == [3]


def test_a_process_that_is_killed_is_named_with_a_remedy() -> None:
    with (
        LoaderProcesses.started(1) as processes,
        pytest.raises(
            CorgiError, match=r"could not start or was ended.*__main__.*loader_processes"
        ),
    ):
        list(processes.each(signal.raise_signal, [signal.SIGKILL]))


def test_they_end_when_their_process_is_killed() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    started = [int(pid) for pid in done.stdout.split()]
    assert started
    deadline = time.monotonic() + PATIENCE
    while any(map(psutil.pid_exists, started)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
