"""Photographs through the quality gate, beside img2dataset: `python -m benchmarks.ingest`.

The same JPEG files, on the same two cores, in turns. Ours reads tars, decodes, looks for damage and
duplicates, and writes tars with their manifests; of img2dataset only the resizer is counted, on
bytes in memory. Both leave images of 640 × 480 pixels at their size and write JPEG.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.contender import Contender, in_turns
from benchmarks.embedding_systems.photographs import photograph
from benchmarks.environments import python_with
from benchmarks.prior_systems.parent import REPOSITORY, Child, end_child
from corgi_core.data.dataset import write_dataset
from corgi_core.data.shards import Sample
from corgi_core.errors import CorgiError
from corgi_core.io.files import write_json

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

PEER = "img2dataset"
WORK = {"corgi": ("gate", "ingest"), PEER: ("as they are", "encoded again")}
MODULES = {"corgi": "corgi", PEER: "img2dataset_resizer"}
REQUIREMENTS = Path(__file__).parent / "ingest_systems" / "img2dataset-requirements.txt"
SHARD = 250  # images
SIDES = {False: (640, 480), True: (64, 48)}
Row = dict[str, Any]


@app.command()
def main(
    json: Annotated[Path | None, typer.Option(help="Write the table's rows to this file.")] = None,
    systems: Annotated[str, typer.Option(help="Who takes part.")] = ",".join(MODULES),
    images: Annotated[int, typer.Option(help="Photographs of 640 × 480 pixels.")] = 1000,
    rounds: Annotated[int, typer.Option(help="Rounds, after one to warm up.")] = 5,
    cores: Annotated[int, typer.Option(help="Of the processor, for each in its turn.")] = 2,
    quick: Annotated[bool, typer.Option(help="Few tiny images: does it run?")] = False,
) -> None:
    """Measure pictures a second: the gate, ingest, and img2dataset's resizer.

    The resizer's work is "as they are" where it decodes and hands on the file's bytes, as the gate
    does, and "encoded again" in its usual setting.

    [bold cyan]python -m benchmarks.ingest --json ingest.json[/bold cyan] takes two minutes.
    """
    console, names = Console(highlight=False), systems.split(",")
    for name in names:
        if name not in MODULES:
            raise CorgiError(f"there is no system {name!r}", f"choose among {', '.join(MODULES)}")
    if min(images, rounds, cores) < 1:
        raise CorgiError("there is nothing to measure", "give numbers above 0")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    count = 20 if quick else images
    files = ((f"{n:08d}", photograph(n, *SIDES[quick])) for n in range(count))
    samples = (Sample(key, file, [key], "train", "made", key, "jpg") for key, file in files)
    with tempfile.TemporaryDirectory(prefix="corgi-ingest-") as folder, ExitStack() as stack:
        status = stack.enter_context(console.status("photographs …"))
        data = Path(folder) / "photographs"
        write_dataset(data, samples, SHARD)
        running = stack.enter_context(children(names))
        contenders = [
            Contender(child, {"work": work, "folder": str(data)}, {"work": work})
            for child in running
            for work in WORK[child.name]
        ]
        if not quick:
            status.update("warming up …")
            for contender in contenders:
                contender.warm()
        for number in in_turns(contenders, 1 if quick else rounds):
            status.update(f"round {number + 1} …")
    rows = [contender.row() for contender in contenders]
    console.print(table_of(rows))
    if json is not None:
        write_json(json, rows)


@contextmanager
def children(names: Sequence[str]) -> Iterator[list[Child]]:
    """The named systems' processes; ended on leaving."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    home = Path(os.environ.get("CORGI_HOME", ".corgi")) / "benchmarks"
    with ExitStack() as stack:
        running = []
        for name in names:
            python = python_with(REQUIREMENTS, home, name) if name == PEER else Path(sys.executable)
            process = subprocess.Popen(
                [python, "-W", "ignore", "-m", f"benchmarks.ingest_systems.{MODULES[name]}"],
                cwd=REPOSITORY, env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            stack.callback(end_child, process)
            running.append(Child(name, process))
        yield running


def table_of(rows: Sequence[Row]) -> Table:
    """Kinds of work down; each rate with its range, and the gate's rate over it."""
    gate = next((row["per_second"] for row in rows if row["work"] == "gate"), None)
    title = "Photographs a second: median and range; processor time of each"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for column in ("system", "a second", "range", "CPU ms", "the gate is"):
        table.add_column(column, justify="left" if column == "system" else "right", no_wrap=True)
    for row in rows:
        ratio = f"{gate / row['per_second']:.2f} ×" if gate and row["system"] == PEER else ""
        table.add_row(
            f"{row['system']}, {row['work']}", f"{row['per_second']:.0f}",
            f"{row['slowest']:.0f}–{row['fastest']:.0f}", f"{row['processor_ms']:.2f}", ratio,
        )  # fmt: skip
    return table


if __name__ == "__main__":
    try:
        app()
    except CorgiError as error:
        sys.exit(f"{error}")
