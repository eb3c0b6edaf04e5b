"""Ctrl-C and SIGTERM end a command, within seconds and with every process that it started.

A signal raises `Interrupted` in the main thread, which then ends its work in order. That can fail
in two ways: compiled code may not return for minutes, and libraries put their own handlers in
place of ours. So for long work a second thread reads the signals from a wakeup descriptor, which
no handler and no busy main thread can keep from it, and ends the process after a deadline.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from orchestration.resources.interrupts import signals_handled_by

PATIENCE = 4.0  # seconds for the main thread to end in order
MESSAGE = "Interrupted. Run the same command again to continue."


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells report it: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT)


@contextmanager
def interrupts_raised() -> Iterator[None]:
    """While the block runs, SIGINT and SIGTERM raise `Interrupted` in the main thread.

    Also where this process was started with SIGINT ignored, as a shell's background jobs are.
    """
    with signals_handled_by(_raise):
        yield


@contextmanager
def ended_in_time(patience: float = PATIENCE) -> Iterator[None]:
    """While the block runs, a signal ends this process and its descendants within `patience`.

    Once a signal has come, the block has `patience` seconds to end by itself. Then, or at a second
    signal, this process and its descendants end at once: the interpreter's own clean-up, in which
    Ray and torch take many seconds, is left out.
    """
    import psutil  # noqa: F401  # loaded before it is needed in a hurry

    watch = _Watch(patience)
    watch.start()
    before = signal.set_wakeup_fd(watch.writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    except KeyboardInterrupt:
        if watch.signal is not None:
            watch.end_process()
        raise
    finally:
        signal.set_wakeup_fd(before)
        watch.stop()


def kill_descendants() -> None:
    """Kill every process that this one started, and those that they started."""
    import psutil

    for _ in range(2):  # a second time for what was started meanwhile
        descendants = psutil.Process().children(recursive=True)
        for process in descendants:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(descendants, timeout=0.5)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


class _Watch(threading.Thread):
    """Ends this process at a deadline after the first signal, or at the second signal."""

    def __init__(self, patience: float) -> None:
        super().__init__(name="interrupts", daemon=True)
        self.signal: int | None = None  # the first one
        self._reader, self.writer = socket.socketpair()
        self.writer.setblocking(False)
        self._patience = patience
        self._screen = os.dup(2)

    def run(self) -> None:
        """Read the signals that the wakeup descriptor passes on."""
        first = self._reader.recv(1)
        if not first:
            return
        self.signal = first[0]
        self._reader.settimeout(self._patience)
        with suppress(TimeoutError):
            if not self._reader.recv(1):
                return
        self.end_process()

    def end_process(self) -> NoReturn:
        """Kill all descendants, print the message, and end with the signal's exit code."""
        kill_descendants()
        show_cursor = b"\x1b[?25h" if os.isatty(self._screen) else b""
        os.write(self._screen, show_cursor + MESSAGE.encode() + b"\n")
        os._exit(128 + (self.signal or signal.SIGINT))

    def stop(self) -> None:
        """End the thread."""
        self.writer.close()
        self.join()
        self._reader.close()
        os.close(self._screen)
