"""Which process something was, so that a later one with the same number is not taken for it."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessMark:
    """A process of some machine.

    Attributes:
        host: the machine's name.
        pid: the process's number there, which a later process may have again.
        started: when it was started, in a form that no change of the clock changes: on Linux the
            boot's id and the clock ticks since then.
    """

    host: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_process() -> ProcessMark:
    """The process that asks."""
    return ProcessMark(platform.node(), os.getpid(), _started(os.getpid()) or "")


def has_ended(mark: ProcessMark) -> bool:
    """Whether a process has ended for certain; of another machine's nobody here knows it."""
    return mark.host == platform.node() and _started(mark.pid) != mark.started


def end_process(mark: ProcessMark) -> bool:
    """Kill a process of this machine, with all that it has started, unless it has ended.

    Returns:
        Whether it has ended; of another machine's nobody here knows it.
    """
    import psutil

    if mark.host != platform.node():
        return False
    if has_ended(mark):
        return True
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(mark.pid)
        every = [process, *process.children(recursive=True)]
        for each in every:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(every, timeout=5)
    return has_ended(mark)


def _started(pid: int) -> str | None:
    """When a living process was started; None where there is none with this number."""
    if not (PROC / "self" / "stat").exists():
        return _started_by_clock(pid)
    with suppress(OSError):
        # "PID (NAME) STATE …": a name may have spaces and brackets in it.
        state, *rest = (
            (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        )
        if state not in "ZX":  # it has ended, and nobody has asked how
            boot = (PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
            return f"{boot}/{rest[18]}"
    return None


def _started_by_clock(pid: int) -> str | None:
    """The same where there is no /proc."""
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return f"{process.create_time():.1f}"
    return None
