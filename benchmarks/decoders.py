"""Training of every kind of decoder beside diffusers' own example: `python -m benchmarks.decoders`.

Images a second and the most memory of a step, forward, backward and update, from pictures on disk
to new weights. The peer trains the UNets of the preset's cascade in the way of diffusers' training
example: see `decoder_systems/diffusers_example.py` for what is theirs and what is ours in it. It
stands for "a UNet of the same size" for the other kinds too, which have other networks, so their
ratios compare what is trained, not only how. Every system is a process; they take turns.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.decoder_systems.child import PEERS, Child, prepare
from benchmarks.decoder_systems.system import Case
from corgi_core.config import Preset, preset_named
from corgi_core.errors import CorgiError
from corgi_core.io.files import write_json

GOAL = 1.2  # times the images a second of diffusers' example
SIDE = 72  # pixels, of the pictures on disk

Row = dict[str, Any]


def main(
    json: Annotated[Path | None, typer.Option(help="Write the table's rows to this file.")] = None,
    kinds: Annotated[
        str | None, typer.Option(help="Which kinds take part; default: all of the preset.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Whose decoders.")] = "emoji",
    batch: Annotated[int, typer.Option(help="Pictures in a step.")] = 32,
    pictures: Annotated[int, typer.Option(help="Pictures on disk.")] = 2048,
    rounds: Annotated[int, typer.Option(help="Steps of each system that count.")] = 7,
    precision: Annotated[str, typer.Option(help="fp32, or bf16: autocast for all.")] = "fp32",
    threads: Annotated[int, typer.Option(help="Of the CPU, for each system in its turn.")] = 2,
) -> None:
    """Measure the training of Corgi's decoders and of diffusers' example, side by side.

    "diffusers" runs CLIP in every step, "diffusers-cached" is given embeddings. Quote ratios, not
    absolute times, and leave the machine alone meanwhile.
    """
    names = _chosen(kinds, preset_named(preset))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        case = Case(
            preset, Path(folder) / "pictures", Path(folder) / "stores", batch, precision, threads
        )
        write_pictures(case.pictures, pictures)
        prepare(case)
        running = []
        for name in (*names, *PEERS):
            running.append(Child(name, case))
            stack.callback(running[-1].end)
        rows = measured(running, case, rounds)
    Console(highlight=False).print(table_of(rows))
    if json is not None:
        write_json(json, rows)


def measured(running: Sequence[Child], case: Case, rounds: int) -> list[Row]:
    """A row for each system: pictures a second by the median of the rounds, and memory."""
    seconds: dict[str, list[float]] = {child.name: [] for child in running}
    for number in range(rounds + 1):
        first = number % len(running)
        for child in (*running[first:], *running[:first]):  # another one first in every round
            took = child.ask("step")
            if number > 0:  # the first one warms up
                seconds[child.name].append(took)
    rates = {name: case.batch / statistics.median(times) for name, times in seconds.items()}
    return [
        {
            "system": child.name,
            "per_second": rates[child.name],
            "slowest": case.batch / max(seconds[child.name]),
            "fastest": case.batch / min(seconds[child.name]),
            "peak_bytes": child.ask("peak"),
            **{f"ratio_to_{peer}": rates[child.name] / rates[peer] for peer in PEERS},
            "batch": case.batch,
            "precision": case.precision,
            "threads": case.threads,
        }
        for child in running
    ]


def table_of(rows: Sequence[Row]) -> Table:
    """Systems down; each rate with half its spread over the rounds."""
    table = Table(
        title="Training: pictures a second; median ± half the spread", box=box.SIMPLE_HEAD
    )
    for column in ("system", "pictures/s", "memory", *(f"× {peer}" for peer in PEERS), "goal"):
        table.add_column(column, justify="left" if column == "system" else "right", no_wrap=True)
    for row in rows:
        spread = (row["fastest"] - row["slowest"]) / 2 / row["per_second"]
        ratios = [row[f"ratio_to_{peer}"] for peer in PEERS]
        met = ratios[0] >= GOAL
        goal = f"[{'green' if met else 'red'}]{'≥' if met else '<'} {GOAL:g}[/]"
        table.add_row(
            row["system"], f"{row['per_second']:.3g} ±{spread:.0%}",
            f"{row['peak_bytes'] / 1e9:.2f} GB", *(f"{ratio:.2f}" for ratio in ratios),
            "" if row["system"] in PEERS else goal,
        )  # fmt: skip
    return table


def _chosen(kinds: str | None, preset: Preset) -> list[str]:
    if kinds is None:
        return [settings.kind for settings in preset.decoders]
    return [preset.decoder_of(kind).kind for kind in kinds.split(",")]


def write_pictures(folder: Path, count: int) -> None:
    """Smooth random pictures, about as large on disk as emoji are."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        small = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:05}.png")


if __name__ == "__main__":
    try:
        typer.run(main)
    except CorgiError as error:
        sys.exit(f"{error}")
