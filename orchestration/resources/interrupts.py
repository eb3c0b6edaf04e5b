"""Signals: who handles those that end a process, also while Ray waits, and how it ends in time.

SIGINT and SIGTERM raise an error in the main thread, which then ends its work in order. That can
fail in two ways: compiled code may not return for minutes, and libraries put their own handlers in
place of ours. So for long work a second thread reads the signals from a wakeup descriptor, which
no handler and no busy main thread can keep from it. It gives notice at once, and ends the process
after a deadline.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 4.0  # seconds for the main thread to end in order
LAST_WORDS = 1.5  # seconds for the notices of an end
MESSAGE = "Interrupted. Run the same command again to continue."


@contextmanager
def signals_handled_by(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """While the block runs, `handler` gets SIGINT and SIGTERM; only the main thread may set it.

    In another thread the block runs with the handlers that there are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def interrupts_for_ray() -> Iterator[None]:
    """While the block runs, SIGINT and SIGTERM raise KeyboardInterrupt in the main thread.

    Ray's waiting calls expect that. Dagster's handler raises an error of its own, for which Ray
    waits on, raises SystemError or aborts the process.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with signals_handled_by(interrupt):
        yield


@dataclass(frozen=True)
class Notice:
    """What others are to hear of an interrupt; both are called from a thread of their own.

    Attributes:
        at_signal: called when the signal has come.
        at_the_end: called when the process is ended before its work has ended in order.
    """

    at_signal: Callable[[], None]
    at_the_end: Callable[[], None]


_notices: list[Notice] = []


@contextmanager
def noticed(notice: Notice) -> Iterator[None]:
    """While the block runs, an interrupt of this process gives this notice."""
    _notices.append(notice)
    try:
        yield
    finally:
        _notices.remove(notice)


@contextmanager
def ended_in_time(patience: float = PATIENCE, leave: bool = True) -> Iterator[None]:
    """While the block runs, a signal ends this process and its descendants within `patience`.

    Once a signal has come, the block has `patience` seconds to end by itself. Then, or at a second
    signal, this process and its descendants end at once: the interpreter's own clean-up, in which
    Ray and torch take many seconds, is left out.

    Args:
        patience: Seconds.
        leave: Whether the process ends as soon as the block has. Otherwise its descendants do, and
            it has the rest of its time to report; its libraries' clean-up is left out all the same.
    """
    import psutil  # noqa: F401  # loaded before it is needed in a hurry

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    watch = _Watch(patience)
    watch.start()
    before = signal.set_wakeup_fd(watch.writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    except KeyboardInterrupt:
        if leave and watch.signal is not None:
            watch.end_process()
        raise
    finally:
        signal.set_wakeup_fd(before)
        if leave or watch.signal is None:
            watch.stop()
        else:
            kill_descendants()
            atexit.register(os._exit, 128 + watch.signal)  # before all clean-up of libraries


def kill_descendants() -> None:
    """Kill every process that this one started, and those that they started."""
    import psutil

    for _ in range(2):  # a second time for what was started meanwhile
        descendants = psutil.Process().children(recursive=True)
        for process in descendants:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(descendants, timeout=0.5)


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
        _in_a_thread(lambda notice: notice.at_signal())
        self._reader.settimeout(self._patience)
        with suppress(TimeoutError):
            if not self._reader.recv(1):
                return
        self.end_process()

    def end_process(self) -> NoReturn:
        """Kill all descendants, give notice, print the message, end with the signal's code."""
        kill_descendants()
        _in_a_thread(lambda notice: notice.at_the_end()).join(LAST_WORDS)
        show_cursor = b"\x1b[?25h" if os.isatty(self._screen) else b""
        os.write(self._screen, show_cursor + MESSAGE.encode() + b"\n")
        os._exit(128 + (self.signal or signal.SIGINT))

    def stop(self) -> None:
        """End the thread."""
        self.writer.close()
        self.join()
        self._reader.close()
        os.close(self._screen)


def _in_a_thread(give: Callable[[Notice], None]) -> threading.Thread:
    """Give all notices, those of what began last first; one that fails keeps back no other."""

    def give_all() -> None:
        for notice in reversed(_notices):
            with suppress(Exception):
                give(notice)

    thread = threading.Thread(target=give_all, name="notices", daemon=True)
    thread.start()
    return thread
