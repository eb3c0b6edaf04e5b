"""A command with the peak memory of each of its processes, as the kernel counts it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

EVERY = 0.1  # seconds between two looks; the kernel's high-water mark misses nothing in between


@dataclass(frozen=True)
class Watched:
    """What a command did.

    Attributes:
        output: What it printed.
        seconds: From its start to its end.
        peaks: By the name of the program, the highest resident memory of one process, in bytes.
    """

    output: str
    seconds: float
    peaks: dict[str, int]

    @property
    def peak(self) -> int:
        """That of the process that had most."""
        return max(self.peaks.values(), default=0)


def watched(command: Sequence[str]) -> Watched:
    """Run a command and all that it starts to its end; CalledProcessError where it fails."""
    began = time.perf_counter()
    peaks: dict[str, int] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            for each in [root, *_children(root)]:
                with contextlib.suppress(psutil.Error, OSError):
                    name = "the step" if each == root else each.name()
                    peaks[name] = max(peaks.get(name, 0), high_water(each.pid))
            time.sleep(EVERY)
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Watched(output, time.perf_counter() - began, peaks)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def high_water(pid: int) -> int:
    """The most resident memory that a process has had, in bytes; 0 where it has none any more."""
    if sys.platform != "linux":
        return int(psutil.Process(pid).memory_info().rss)
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0
