"""The terminal while Corgi works: a progress display that nothing else writes into."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

from corgi_core.progress import listening
from orchestration.resources.logs import LOG_FILE, file_handler
from orchestration.settings import Settings


@contextmanager
def own_screen(settings: Settings) -> Iterator[Console]:
    """A console of our own; what else is written to stdout or stderr goes to corgi.log.

    Libraries, child processes and Dagster's capture of its steps all use the two descriptors, so
    the descriptors themselves are turned around while the block runs.
    """
    log = settings.state / LOG_FILE
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    screen, error_screen = os.dup(1), os.dup(2)
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    handler = file_handler(settings)
    logging.getLogger().addHandler(handler)
    try:
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        encoding, errors = sys.stdout.encoding, sys.stdout.errors
        with os.fdopen(os.dup(screen), "w", encoding=encoding, errors=errors) as file:
            yield Console(file=file, highlight=False)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(screen, 1)
        os.dup2(error_screen, 2)
        for descriptor in (screen, error_screen, sink):
            os.close(descriptor)
        logging.getLogger().removeHandler(handler)


@dataclass
class StepDisplay:
    """One line for the whole job, one for what the present step is doing."""

    progress: Progress
    total: int

    @classmethod
    @contextmanager
    def on(cls, console: Console, total: int) -> Iterator[StepDisplay]:
        """Show the steps of a refresh on a console while the block runs."""
        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Elapsed(),
            console=console,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with progress:
            yield cls(progress, total)

    def __post_init__(self) -> None:
        self._job = self.progress.add_task("all steps", total=self.total)
        self._began = time.monotonic()

    def unchanged(self, title: str) -> None:
        """A step that need not be done."""
        self.progress.console.print(f"· {title}: unchanged", style="dim", markup=False)
        self.progress.advance(self._job)

    @contextmanager
    def doing(self, title: str, reason: str) -> Iterator[None]:
        """A step while it is done, with what the core reports of it."""
        self.progress.update(self._job, description=title)
        inner = self.progress.add_task(reason, total=None)
        began = time.monotonic()

        def hear(what: str, done: int, total: int) -> None:
            self.progress.update(inner, description=what, completed=done, total=total or None)

        try:
            with listening(hear):
                yield
        finally:
            self.progress.remove_task(inner)
        seconds = time.monotonic() - began
        self.progress.console.print(f"✓ {title} {seconds:.1f} s", style="green", markup=False)
        self.progress.advance(self._job)

    @property
    def seconds(self) -> float:
        """Since the display came up."""
        return time.monotonic() - self._began
