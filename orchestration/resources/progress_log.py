"""Says in a step's log how far it is: at the start, and then at most every half minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg

from corgi_core import progress

PACE = 30.0  # seconds between two lines
MINUTE, HOUR, DAY = 60, 3600, 86400  # seconds


@dataclass
class _Work:
    """When a piece of work was first heard of, how far it was then, and when it was last logged."""

    began: float
    done: int
    logged: float


class ProgressLog:
    """Writes lines such as "embedding images: 4,096 of 80,000, 410 a second, 3 min left".

    Reports come from any thread.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        pace: float = PACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write, self._pace, self._clock = write, pace, clock
        self._since = time.time()
        self._works: dict[str, _Work] = {}
        self._lock = threading.Lock()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Hear a report of `corgi_core.progress`; a `total` of 0 is of work that has no measure."""
        work = what.partition(progress.DETAIL)[0]
        if not total:
            self._say(work, 0, 0, lambda per_second: what)
        elif done < total or work in self._works:

            def line(per_second: float) -> str:
                words = [f"{done:,} of {total:,}"]
                if per_second:
                    left = in_words((total - done) / per_second)
                    words += [f"{per_second:,.3g} a second", f"{left} left"]
                return f"{what}: {', '.join(words)}"

            self._say(work, done, self._clock(), line)

    def training(
        self, name: str, entry: Mapping[str, Any], steps: int, link: Callable[[], str | None]
    ) -> None:
        """Hear an entry of a training's metrics log; `link` gives the page of its run.

        Entries that an earlier process has written are not logged again.
        """
        if entry["time"] < self._since:
            return

        def line(steps_per_second: float) -> str:
            words = [f"step {entry['step']:,} of {steps:,}"]
            if "loss" in entry:
                words.append(f"loss {entry['loss']:.4g}")
            if speed := entry.get("samples_per_second"):
                words.append(f"{speed:,.0f} samples a second")
            if steps_per_second:
                words.append(f"{in_words((steps - entry['step']) / steps_per_second)} left")
            page = link()
            return f"{name}: {', '.join(words)}" + (f"; MLflow: {page}" if page else "")

        self._say(name, entry["step"], entry["seconds"], line)

    def _say(self, what: str, done: int, seconds: float, line: Callable[[float], str]) -> None:
        """Write the line, unless one was written a moment ago.

        `line` makes it of the speed since the work was first heard of, 0 where that is not known;
        `seconds` is the time that this is measured by.
        """
        with self._lock:
            now = self._clock()
            work = self._works.get(what)
            if work is not None and now - work.logged < self._pace:
                return
            work = self._works.setdefault(what, _Work(seconds, done, now))
            work.logged = now
        spent = seconds - work.began
        self._write(line((done - work.done) / spent if spent > 0 else 0.0))


def in_words(seconds: float) -> str:
    """A duration, to two units at most.

    Examples:
        >>> in_words(42.3), in_words(3900), in_words(100_000)
        ('42 s', '1 h 5 min', '1 d 3 h')
    """
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    if whole < DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"


@contextmanager
def progress_logged() -> Iterator[None]:
    """While the block runs inside a step, what the core reports is in the step's log."""
    context = current_step()
    if context is None:
        yield
        return
    with progress.listening(ProgressLog(context.log.info)):
        yield


def current_step() -> dg.AssetExecutionContext | None:
    """The asset that this thread materialises; None outside of one, in a check, in a job's op."""
    try:
        step = dg.AssetExecutionContext.get()
    except dg.DagsterInvariantViolationError:
        return None
    return step if step.has_assets_def else None
