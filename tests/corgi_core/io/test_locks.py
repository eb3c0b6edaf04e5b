"""One process at a time, and the others learn which one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from corgi_core.io.locks import LockHeldError, exclusive_lock


def holder(path: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until it is killed."""
    program = f"""
import sys, pathlib
from corgi_core.io.locks import exclusive_lock
with exclusive_lock(pathlib.Path({str(path)!r}), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_the_holder_is_named_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with holder(path) as process:
        with pytest.raises(LockHeldError) as refused, exclusive_lock(path, "the oven is in use"):
            pass
        assert refused.value.problem.startswith(f"the oven is in use (process {process.pid} on ")
        process.kill()
        process.wait()
        with exclusive_lock(path, "busy"):
            assert "process" in path.read_text()


def test_a_patient_process_gets_the_lock_when_the_holder_leaves(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as process:
        threading.Timer(0.4, process.kill).start()
        began = time.monotonic()
        with exclusive_lock(path, "busy", patience=30):
            assert 0.3 < time.monotonic() - began < 20


def test_the_lock_is_free_after_the_block_also_where_it_raises(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), exclusive_lock(path, "busy"):
        raise ZeroDivisionError
    with exclusive_lock(path, "busy"):
        pass
