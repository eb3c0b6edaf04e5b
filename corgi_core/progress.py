"""Progress of long computations, reported to listeners.

The core reports; the command line listens and shows a bar. No listener is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

DETAIL = " · "  # what follows it in `what` changes from report to report
T = TypeVar("T")
Listener = Callable[[str, int, int], None]

_listeners: list[Listener] = []
_thread = threading.local()


def report(what: str, done: int, total: int) -> None:
    """Report to all listeners that `done` of `total` units of `what` are finished."""
    if not getattr(_thread, "muted", False):
        for listener in tuple(_listeners):
            listener(what, done, total)


def track(iterable: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield from `iterable`, reporting after each item; `total` defaults to its length."""
    if total is None:
        total = len(iterable) if isinstance(iterable, Sized) else 0
    report(what, 0, total)
    for done, item in enumerate(iterable, start=1):
        yield item
        report(what, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """While the block runs, `listener(what, done, total)` gets every report of this process."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def muted() -> Iterator[None]:
    """While the block runs, this thread's reports are not heard: they are of parts of an item."""
    before = getattr(_thread, "muted", False)
    _thread.muted = True
    try:
        yield
    finally:
        _thread.muted = before
