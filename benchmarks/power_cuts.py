"""Power cuts at random moments of a run: `python -m benchmarks.power_cuts --cuts 10`.

A workspace of 200 emoji, served by `corgi ui`, in which Dagster's page starts `everything`. At a
random moment all of it is killed by SIGKILL at once: proxy, webserver, daemon, code server, MLflow,
the run and Ray. Then `corgi ui` is started again, and so is the run, which goes on. After the last
cut the run ends, and its models are compared with those of a workspace that was never cut off.

Printed for every cut: when it came, what was under way, the seconds from the start of `corgi ui` to
its page and to the end of the dead run in Dagster, and whether a slot of the device stayed taken.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Annotated

import psutil
import typer

from benchmarks.power_cut_steps.page import REPOSITORIES, Page
from corgi_core.io.files import digest_of_file
from orchestration.resources.instance import open_instance
from orchestration.resources.trainer import DEVICE
from orchestration.settings import Settings

PRESET = """
extends: emoji-small
variants: [baseline, shifted-k1]
caption_subsets: [100%]
data: {limit: 200, twin_cosine: null}
encoders: {width: 32, training: {steps: 40, batch_size: 8, checkpoint_every: 10}}
prior: {width: 32, layers: 1, training: {steps: 60, batch_size: 8, checkpoint_every: 10}}
decoders:
  pca: {components: 64, width: 32, num_steps: 2, training: {steps: 40, checkpoint_every: 10}}
evaluation: {steps: [1], images: 8, grid_rows: 2}
"""
JOB = "everything"
PATIENCE = 900.0  # seconds
OVER = ("SUCCESS", "FAILURE", "CANCELED")


@dataclass(frozen=True)
class Workspace:
    """A folder with its settings, and the ports of its pages."""

    folder: Path
    workers: int
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """The variables of its processes."""
        return os.environ | {
            "CORGI_HOME": str(self.folder / ".corgi"),
            "CORGI_DATA": str(self.folder / "data"),
            "CORGI_CONFIG": str(self.folder / "settings.yaml"),
            "CORGI_WORKERS": str(self.workers),
            "CORGI_DAGSTER_PORT": str(self.port),
            "CORGI_MLFLOW_PORT": str(self.port + 1),
            "CORGI_DEVICE_LOCK": str(self.folder / "device.lock"),
        }

    @property
    def settings(self) -> Settings:
        """Its settings."""
        return Settings.from_environment(self.environment)

    @property
    def page(self) -> Page:
        """Dagster's."""
        return Page(f"127.0.0.1:{self.port}")

    @contextmanager
    def served(self) -> Iterator[float]:
        """`corgi ui`, killed at the end of the block; yields when it was started."""
        began = time.monotonic()
        with (self.folder / "ui.log").open("ab") as log:
            server = subprocess.Popen(
                [sys.executable, "-c", "from orchestration.cli.app import app; app()", "ui"],
                env=self.environment, cwd=self.folder, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            _wait(lambda: self._answers(server))
            yield began
        finally:
            _kill(psutil.Process(server.pid))
            server.wait()

    def _answers(self, server: subprocess.Popen[bytes]) -> bool:
        if server.poll() is not None:
            raise RuntimeError((self.folder / "ui.log").read_text("utf-8")[-3000:])
        try:
            return bool(self.page.ask(REPOSITORIES)["repositoriesOrError"]["nodes"])
        except (OSError, ValueError, KeyError, HTTPException):
            return False

    def slots(self) -> int:
        """Of the device that are taken."""
        with open_instance(self.settings) as instance:
            return instance.event_log_storage.get_concurrency_info(DEVICE).active_slot_count

    def under_way(self) -> str:
        """What the run materialises at the moment."""
        with open_instance(self.settings) as instance:
            for run in instance.get_runs(limit=1):
                selected = sorted(key.to_user_string() for key in run.asset_selection or ())
                return f"{', '.join(selected) or run.job_name} ({run.status.value.lower()})"
        return "nothing"

    def weights(self) -> dict[str, str]:
        """The digests of all models' and arrays' files, by their paths in the storage."""
        storage = Path(str(self.settings.storage))
        found = sorted(storage.rglob("*.safetensors"))
        return {str(path.relative_to(storage)): digest_of_file(path) for path in found}


@dataclass(frozen=True)
class Cut:
    """A power cut: its number, seconds after the start of a run, what that did, and its id."""

    number: int
    moment: float
    under_way: str
    run: str


def main(
    cuts: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
    latest: Annotated[float, typer.Option(help="Seconds after the start of a run.")] = 40.0,
    workers: Annotated[int, typer.Option(help="Of Ray; 0 is none.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    port: Annotated[int, typer.Option(help="Of Dagster's page; MLflow has the next one.")] = 3941,
) -> None:
    """Cut a workspace's power, and print what was found after each cut, as a table in Markdown."""
    moments = random.Random(seed)
    top = Path(tempfile.mkdtemp(prefix="power-cuts-"))
    straight, cut = (Workspace(top / name, workers, port) for name in ("straight", "cut"))
    for each in (straight, cut):
        each.folder.mkdir()
        (each.folder / "settings.yaml").write_text(PRESET, "utf-8")
    typer.echo(
        "| cut | seconds after the start | under way | page, s | run named dead, s | slots |"
    )
    typer.echo("|--:|--:|---|--:|--:|--:|")
    last: Cut | None = None
    for number in range(1, cuts + 2):
        with cut.served() as began:
            if last is not None:
                typer.echo(_row(last, cut, began))
            run = cut.page.launch(JOB)
            if number > cuts:
                _end(cut, run)
            else:
                time.sleep(moment := moments.uniform(0, latest))
                last = Cut(number, moment, cut.under_way(), run)
    with straight.served():
        _end(straight, straight.page.launch(JOB))
    found, expected = cut.weights(), straight.weights()
    same = "equal" if found == expected else "NOT equal"
    typer.echo(f"\n{len(expected)} files of weights are {same} to an uninterrupted run's.")
    shutil.rmtree(top, ignore_errors=True)
    raise typer.Exit(found != expected)


def _row(cut: Cut, workspace: Workspace, began: float) -> str:
    """What is found after a cut; `began` is when the servers were started again."""
    page = time.monotonic() - began
    _wait(lambda: workspace.page.status(cut.run) in OVER)
    named = time.monotonic() - began
    cells = (
        cut.number, f"{cut.moment:.1f}", cut.under_way, f"{page:.1f}", f"{named:.1f}",
        workspace.slots(),
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _end(workspace: Workspace, run: str) -> None:
    _wait(lambda: workspace.page.status(run) in OVER)
    if (status := workspace.page.status(run)) != "SUCCESS":
        raise RuntimeError(f"the run {run} in {workspace.folder} ended as {status}")


def _wait(condition: Callable[[], object]) -> None:
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > PATIENCE:
            raise RuntimeError(f"nothing in {PATIENCE:g} seconds")
        time.sleep(0.2)


def _kill(top: psutil.Process) -> None:
    """SIGKILL of a process and all below it, at once."""
    every = [top, *top.children(recursive=True)]
    for process in every:
        if process.is_running():
            process.kill()
    psutil.wait_procs(every, timeout=20)


if __name__ == "__main__":
    typer.run(main)
