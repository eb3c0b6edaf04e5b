"""What Dagster, Ray, MLflow and DVC cost: `python -m benchmarks.orchestration`.

Runs a preset's whole lineage in a new home, step by step as `corgi run` does, and divides each
step's time into work and the rest. Work is what a script without any of the four would do as well:

- the time in which `corgi_core` runs in the main thread, by samples of its stack: of the project's
  own functions on it the innermost is `corgi_core`'s, whatever library that has called;
- the time in which the main thread waits for Ray workers that compute shards;
- of a training on Ray Train, the time from the beginning of its first step to the last entry of its
  metrics log. A training in this process is counted by the samples.

Reading and writing artefacts is work, as `corgi_core` does it. The rest is orchestration: events,
checks, MLflow's runs, the start of Ray and its workers, and the import of all these.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

import corgi_core
from corgi_core.io.files import write_json
from corgi_core.training.metrics_log import read_metrics
from orchestration.resources import ray_workers
from orchestration.settings import Settings

LOOKS = 0.005  # seconds between two samples of the main thread's stack
PROJECT = Path(corgi_core.__file__).parents[1]
CORE = f"{PROJECT / 'corgi_core'}/"
OTHERS = tuple(f"{PROJECT / name}/" for name in ("assets", "orchestration", "benchmarks"))
SHARD_WORKERS = ray_workers.__file__


@dataclass
class Row:
    """One step's seconds."""

    step: str
    seconds: float = 0.0
    work: float = 0.0
    of_it_training: float = 0.0


@dataclass
class Stopwatch:
    """What `Refresh` reports its steps to: measures each of them.

    Attributes:
        work: The folder of the trainings' run folders.
        on_ray: Whether they run on Ray Train, and not in this process.
    """

    work: Path
    on_ray: bool
    console: Console
    rows: list[Row] = field(default_factory=list)

    def unchanged(self, title: str) -> None:
        """A step that is not done."""

    @contextmanager
    def doing(self, title: str, reason: str) -> Iterator[None]:
        """A step while it is done."""
        trained_before = trained_in(self.work)
        began = time.monotonic()
        with Sampler() as sampler:
            yield
        row = Row(title, time.monotonic() - began)
        row.of_it_training = trained_in(self.work) - trained_before
        row.work = sampler.work + (row.of_it_training if self.on_ray else 0.0)
        self.rows.append(row)
        line = f"{title}: {row.seconds:.1f} s, {row.work:.1f} of them work"
        self.console.print(line, markup=False)


class Sampler:
    """Looks at the main thread's stack all the time; `work` is the seconds in which it works."""

    def __init__(self) -> None:
        self.work = 0.0
        self._main, self._end = threading.main_thread().ident, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        looked = time.monotonic()
        while not self._end.wait(LOOKS):
            before, looked = looked, time.monotonic()
            if is_work(sys._current_frames().get(self._main or 0)):
                self.work += looked - before


def is_work(frame: FrameType | None) -> bool:
    """Whether a thread whose innermost call is `frame` does work, or waits for workers that do."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(CORE):
            return True
        if file == SHARD_WORKERS and frame.f_code.co_name == "run":
            return _at_work(frame.f_locals["self"])
        if file.startswith(OTHERS) and file != SHARD_WORKERS:
            return False
        frame = frame.f_back
    return False


def _at_work(pool: Any) -> bool:
    try:
        return bool(pool.at_work())
    except RuntimeError:  # it hands out an item in this moment
        return True


def trained_in(work: Path) -> float:
    """Seconds from the first step's beginning to the last entry, of all trainings below `work`."""
    logs = [read_metrics(path) for path in work.rglob("metrics.jsonl")]
    return float(sum(x[-1]["time"] - x[0]["time"] + x[0]["seconds"] for x in logs if x))


def main(
    preset: Annotated[str, typer.Option(help="Whose lineage.")] = "emoji",
    json: Annotated[Path | None, typer.Option(help="Write the table's rows to this file.")] = None,
) -> None:
    """Measure orchestration's share of a run; leave the machine alone meanwhile."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(preset, Path(folder), console)
    console.print(table_of(rows))
    if json is not None:
        write_json(json, [vars(row) for row in rows])


def measured(preset: str, folder: Path, console: Console) -> list[Row]:
    """A row for the start and for each step of the preset's lineage, made below `folder`."""
    began = time.monotonic()
    from orchestration.automation.refresh import Refresh
    from orchestration.cli.screen import own_screen
    from orchestration.definitions import build_definitions
    from orchestration.resources.instance import open_instance

    homes = {"CORGI_HOME": str(folder / "home"), "CORGI_DATA": str(folder / "data")}
    settings = Settings.load(homes, preset=preset)
    with own_screen(settings) as screen:
        repository = build_definitions(settings).get_repository_def()
        refresh = Refresh(repository, open_instance(settings), settings)
        steps = refresh.all_steps()
        stopwatch = Stopwatch(settings.work, settings.preset.workers > 0, screen)
        stopwatch.rows.append(Row("start", time.monotonic() - began))
        refresh.run(steps, stopwatch)
    stopwatch.rows.append(Row("looking for what is stale", _rest(began, stopwatch.rows)))
    return stopwatch.rows


def _rest(began: float, rows: Sequence[Row]) -> float:
    return time.monotonic() - began - sum(row.seconds for row in rows)


def table_of(rows: Sequence[Row]) -> Table:
    """The rows, and their sum with orchestration's share."""
    seconds, work = sum(row.seconds for row in rows), sum(row.work for row in rows)
    title = f"Orchestration: {seconds - work:.0f} of {seconds:.0f} s, {1 - work / seconds:.1%}"
    table = Table(box=box.MARKDOWN, title=title, title_justify="left")
    table.add_column("step")
    for name in ("seconds", "work", "training in it", "rest"):
        table.add_column(name, justify="right")
    for row in rows:
        values = row.seconds, row.work, row.of_it_training, row.seconds - row.work
        table.add_row(row.step, *(f"{value:.1f}" for value in values))
    return table


if __name__ == "__main__":
    typer.run(main)
