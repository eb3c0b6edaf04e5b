"""One real step of every model of `coco` and `paper`: `python -m benchmarks.presets`.

At the presets' real shapes, with a batch of one, by the training loop's own parts: forward,
backward, AdamW, moving average, in bfloat16 autocast. Every model has a process of its own, one
after the other, and its peak memory is measured beside what `corgi config check` computes.
Published weights are not needed: CLIP, T5 and Stable Diffusion have random ones in the sizes of
their configurations. A cascade's stages are trained one at a time, as always.

What does not fit in --memory has the matrices of its weights, gradients, moments and average in
bfloat16 instead of float32. The table says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from corgi_core.config import load_preset
from corgi_core.config.loading import assigned
from corgi_core.errors import CorgiError
from corgi_core.io.files import write_json
from corgi_core.sizes.models import models_of

SHARE = 0.9  # of the memory that is free, for one model
WIDTH = 150  # characters of the table

Row = dict[str, Any]


def main(
    presets: Annotated[str, typer.Option(help="Names, with commas between.")] = "coco,paper",
    models: Annotated[
        str | None, typer.Option(help="Models whose names begin so, with | between; default: all.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, such as prior.layers=16.")
    ] = None,
    memory: Annotated[
        float | None, typer.Option(help="GB for a model; default: 90 % of what is free.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of the CPU.")] = 2,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the table's rows to this file.")
    ] = None,
) -> None:
    """Take one step of every model, and print its parameters, seconds and memory."""
    rows = []
    for preset in presets.split(","):
        for model in _names(preset, overrides or [], models):
            row = measured(preset, overrides or [], model, memory, threads)
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
            if json_file is not None:
                write_json(json_file, rows)
    Console(highlight=False, width=WIDTH).print(table_of(rows))


def table_of(rows: Sequence[Row]) -> Table:
    """Models down; a model that did not run has its reason."""
    table = Table(title="One step of every model", box=box.SIMPLE_HEAD)
    for column in ("preset", "model", "parameters", "TFLOP", "seconds", "computed", "peak", "what"):
        named = column in ("preset", "model", "what")
        table.add_column(column, justify="left" if named else "right", no_wrap=True)
    for row in rows:
        if "failure" in row:
            table.add_row(row["preset"], row["model"], *["–"] * 5, row["failure"])
            continue
        table.add_row(
            row["preset"], row["model"], f"{row['parameters']:,}", f"{row['flops'] / 1e12:.3g}",
            f"{row['seconds']:.1f}", f"{row['computed_bytes'] / 1e9:.2f} GB",
            f"{row['peak_bytes'] / 1e9:.2f} GB", row["what"],
        )  # fmt: skip
    return table


def _names(preset: str, overrides: list[str], wanted: str | None) -> list[str]:
    loaded = load_preset(preset, [assigned(each) for each in overrides]).preset
    names = [model.name for model in models_of(loaded) if not model.beside]
    if wanted is None:
        return names
    return [name for name in names if name.startswith(tuple(wanted.split("|")))]


def measured(
    preset: str, overrides: list[str], model: str, memory: float | None, threads: int
) -> Row:
    """What a child says of a model; or that it ended, as when the system has killed it."""
    given = memory * 1e9 if memory else SHARE * psutil.virtual_memory().available
    request = {
        "preset": preset, "overrides": overrides, "model": model, "memory": given,
        "threads": threads,
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.preset_steps.child", json.dumps(request)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        row: Row = json.loads(done.stdout.splitlines()[-1])
        return row
    return {"preset": preset, "model": model, "failure": f"ended with {done.returncode}"}


if __name__ == "__main__":
    try:
        typer.run(main)
    except CorgiError as error:
        sys.exit(f"{error}")
