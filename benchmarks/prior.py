"""Corgi's prior against its peers, in one run, interleaved: `python -m benchmarks.prior`.

Width 512, 6 layers, 8 heads, 77 text tokens of width 512, for all. Peers: diffusers'
PriorTransformer with its UnCLIP scheduler, and DALLE2-pytorch's prior, each as its own pipeline
runs it. Every system is a process; they take turns, so the machine's mood is shared, and one that
waits computes nothing.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.prior_systems.floor import Machine, floor_seconds
from benchmarks.prior_systems.parent import (
    MODULES,
    Child,
    children,
    measure_learning,
    measure_speed,
)
from benchmarks.prior_systems.report import show
from benchmarks.prior_systems.system import Case
from corgi_core.config import preset_named
from corgi_core.errors import CorgiError
from corgi_core.io.files import write_json

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

QUICK = {"steps": 8, "text_tokens": 32, "layers": 2, "held_out": 64}
Row = dict[str, Any]


@app.command()
def main(
    json: Annotated[Path | None, typer.Option(help="Write the table's rows to this file.")] = None,
    systems: Annotated[str, typer.Option(help="Who takes part.")] = ",".join(MODULES),
    dims: Annotated[str, typer.Option(help="Widths d of the embeddings.")] = "512,1536",
    batches: Annotated[str, typer.Option(help="Captions at once.")] = "1,16",
    noise_samples: Annotated[
        int, typer.Option(help="Corgi's noise samples per caption, for speed.")
    ] = 16,
    rounds: Annotated[int, typer.Option(help="Runs of a case; 3 at most where one is slow.")] = 5,
    seconds: Annotated[float, typer.Option(help="Of training before held-out loss; 0: none.")] = 60,
    learning_rates: Annotated[str, typer.Option(help="Each system at its best of these.")] = (
        "3e-4,1e-3"
    ),
    stores: Annotated[
        Path | None,
        typer.Option(help="Train on `image_embeddings` and `text_embeddings` in this folder."),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, or bf16: autocast for all.")] = "",
    device: Annotated[str, typer.Option(help="cpu or cuda; the GPU if there is one.")] = "",
    threads: Annotated[int, typer.Option(help="Of the CPU, for each system in its turn.")] = 2,
    quick: Annotated[bool, typer.Option(help="A small network, one round: does it run?")] = False,
) -> None:
    """Measure Corgi's prior and its peers, side by side.

    [bold]Sampling[/bold]: captions per second, 64 guided steps, the text given as encodings.
    [bold]Training[/bold]: noise samples per second of a step, forward, backward and AdamW; peers
    take one (t, noise) for each caption, Corgi [bold]--noise-samples[/bold] that share the
    caption's text.
    [bold]Held-out loss[/bold] after the same seconds of training, d = 512, batch 16, same data,
    schedule and optimiser, weights not averaged, Corgi with its presets' noise samples per caption;
    on made captions, or real: [bold]--stores[/bold].

    The floor is what the task's multiply-adds and weights need at the rates that this machine is
    measured at. Quote ratios, not absolute times, and leave the machine alone meanwhile.

    [bold cyan]python -m benchmarks.prior --json prior.json[/bold cyan] is the whole table (about
    a quarter of an hour on two cores); losses go to prior-loss.json.
    [bold cyan]--quick[/bold cyan] takes a minute. [bold cyan]--systems corgi,diffusers[/bold cyan]
    needs no package registry.
    """
    console = Console(highlight=False)
    names, rates = _chosen(systems), _numbers("learning-rates", learning_rates)
    device = device or _best_device()
    precision = precision or ("bf16" if device.startswith("cuda") else "fp32")
    case = Case(
        "sampling", dim=512, batch=16, noise_samples=noise_samples, precision=precision,
        device=device,
    )  # fmt: skip
    if quick:
        case, rounds, seconds = replace(case, **QUICK), 1, min(seconds, 5.0)
    cases = [
        replace(case, task=task, dim=int(dim), batch=int(batch))
        for task, dim, batch in product(
            ("sampling", "training"), _numbers("dims", dims), _numbers("batches", batches)
        )
    ]
    of_preset = preset_named("emoji").prior.noise_samples
    learning = replace(case, task="learning", seconds=seconds, noise_samples=of_preset)
    if stores is not None:
        learning = replace(learning, stores=str(stores.resolve()), dim=_dim_of(stores))
    home = Path(os.environ.get("CORGI_HOME", ".corgi")) / "benchmarks"
    speed: list[Row] = []
    with console.status("The systems start …") as status, children(names, threads, home) as running:
        for one in cases:
            status.update(f"{one.task}, d = {one.dim}, batch {one.batch} …")
            speed += _with_floor(running, one, measure_speed(running, one, rounds, min(rounds, 3)))
        losses: list[Row] = []
        if seconds:
            status.update(f"training each system for {seconds:g} s at each learning rate …")
            losses = measure_learning(running, learning, rates)
    show(console, speed, losses)
    if json is not None:
        write_json(json, speed)
        if losses:
            write_json(json.with_name(f"{json.stem}-loss.json"), losses)


def _with_floor(running: list[Child], case: Case, rows: list[Row]) -> list[Row]:
    """The rows, ours with the share of its time that the floor would take."""
    for child, row in zip(running, rows, strict=True):
        if child.name == "corgi":
            machine = Machine(**child.ask("machine", case=asdict(case)))
            items = case.batch * (case.noise_samples if case.task == "training" else 1)
            row["floor_fraction"] = floor_seconds(case, machine) * row["per_second"] / items
            row["machine"] = {"flops": machine.flops, "bytes": machine.bytes}
    return rows


def _chosen(systems: str) -> list[str]:
    names = systems.split(",")
    for name in names:
        if name not in MODULES:
            raise CorgiError(f"there is no system {name!r}", f"choose among {', '.join(MODULES)}")
    return names


def _numbers(option: str, text: str) -> list[float]:
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) <= 0:
        raise CorgiError(
            f"--{option} {text!r} are not numbers above 0", "separate them with commas, as in 1,16"
        )
    return numbers


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _dim_of(stores: Path) -> int:
    from benchmarks.prior_systems.captions import stored_dim

    return stored_dim(stores)


if __name__ == "__main__":
    try:
        app()
    except CorgiError as error:
        sys.exit(f"{error}")
