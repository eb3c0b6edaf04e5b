"""How fast every kind of decoder decodes: `python -m benchmarks.decoding`.

One image alone, for which a user waits, and batches, as evaluations decode them. The networks are
untrained, because time does not depend on the values of weights.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.decoder_systems.child import prepare
from benchmarks.decoder_systems.corgi import task_on
from benchmarks.decoder_systems.system import Case
from benchmarks.decoders import write_pictures
from corgi_core.config import preset_named
from corgi_core.decoders.decoder import Decoder
from corgi_core.errors import CorgiError
from corgi_core.io.files import write_json

GOAL, IN_ONE_PASS = 0.1, ("gan", "lafite")  # seconds an image, of the kinds with one forward pass
PICTURES = 64  # on disk

Row = dict[str, Any]


def main(
    json: Annotated[Path | None, typer.Option(help="Write the table's rows to this file.")] = None,
    preset: Annotated[str, typer.Option(help="Whose decoders.")] = "emoji",
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 32,
    rounds: Annotated[int, typer.Option(help="Times that count, of each.")] = 7,
    threads: Annotated[int, typer.Option(help="Of the CPU.")] = 2,
) -> None:
    """Measure how long each of the preset's decoders takes for one image, and for many."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        case = Case(
            preset, Path(folder) / "pictures", Path(folder) / "stores", batch, "fp32", threads
        )
        write_pictures(case.pictures, PICTURES)
        prepare(case)
        rows = [measured(decoder, batch, rounds) for decoder in untrained(case)]
    Console(highlight=False).print(table_of(rows))
    if json is not None:
        write_json(json, rows)


def untrained(case: Case) -> list[Decoder]:
    """The preset's decoders, fitted to the case's pictures and not trained."""
    decoders = []
    for settings in preset_named(case.preset).decoders:
        task, models = task_on(settings.kind, case), []
        for part in task.parts().values():
            models.append(part.build())
            part.prepare(models[-1])
        decoders.append(task.assembled([model.eval() for model in models], {}))
    return decoders


def measured(decoder: Decoder, batch: int, rounds: int) -> Row:
    """Seconds of one image alone, and images a second in batches; medians of the rounds."""
    z = torch.randn(batch, decoder.width)
    alone = _seconds(decoder, z[:1], rounds)
    together = statistics.median(_seconds(decoder, z, rounds))
    return {
        "kind": decoder.kind,
        "pixels": decoder.settings.image_size,
        "steps": decoder.settings.num_steps,
        "seconds_alone": statistics.median(alone),
        "slowest_alone": max(alone),
        "per_second": batch / together,
        "batch": batch,
    }


def table_of(rows: Sequence[Row]) -> Table:
    """Kinds down."""
    table = Table(title="Decoding: one image alone, many in batches; medians", box=box.SIMPLE_HEAD)
    for column in ("kind", "pixels", "steps", "one image", "images/s", "goal"):
        table.add_column(column, justify="left" if column == "kind" else "right", no_wrap=True)
    for row in rows:
        met = row["seconds_alone"] < GOAL
        goal = f"[{'green' if met else 'red'}]{'<' if met else '≥'} {GOAL:g} s[/]"
        table.add_row(
            row["kind"], str(row["pixels"]), str(row["steps"]), f"{row['seconds_alone']:.3f} s",
            f"{row['per_second']:.0f}", goal if row["kind"] in IN_ONE_PASS else "",
        )  # fmt: skip
    return table


def _seconds(decoder: Decoder, z: Tensor, rounds: int) -> list[float]:
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        decoder.decode(z)
        times.append(time.perf_counter() - began)
    return times[1:]  # the first one warms up


if __name__ == "__main__":
    try:
        typer.run(main)
    except CorgiError as error:
        sys.exit(f"{error}")
