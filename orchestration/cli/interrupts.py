"""Ctrl-C and SIGTERM raise an error in every command, and become its exit code."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from orchestration.resources.interrupts import signals_handled_by


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


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)
