"""Photographs in tars → embeddings, beside two other systems: `python -m benchmarks.embedding`.

Ours is what the asset `image_embeddings` does in one process. Peers: a plain loop of open_clip's
encoder over a torch DataLoader, and clip-retrieval's inference in an environment of its own. Each
is a process on the same two cores; they take turns, the peers at the best of a few settings.
"""

from __future__ import annotations

import json as json_library
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.contender import Contender, in_turns
from benchmarks.embedding_systems.case import Case
from benchmarks.embedding_systems.photographs import photograph
from benchmarks.environments import python_with
from benchmarks.prior_systems.parent import REPOSITORY, Child, end_child
from corgi_core.data.dataset import write_dataset
from corgi_core.data.shards import Sample
from corgi_core.errors import CorgiError
from corgi_core.io.files import write_json

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

GOAL = 1.3
CLIP_RETRIEVAL = "clip-retrieval"
MODULES = {
    "corgi": "corgi", "open_clip": "open_clip_loop", CLIP_RETRIEVAL: "clip_retrieval_worker",
}  # fmt: skip
REQUIREMENTS = Path(__file__).parent / "embedding_systems" / "clip-retrieval-requirements.txt"
SHARD = 64  # images: a batch of ours for each of two cores
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 64, "head_width": 32, "layers": 2},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
Row = dict[str, Any]


@app.command()
def main(
    json: Annotated[Path | None, typer.Option(help="Write the table's rows to this file.")] = None,
    systems: Annotated[str, typer.Option(help="Who takes part.")] = ",".join(MODULES),
    architecture: Annotated[str, typer.Option(help="An open_clip model.")] = "ViT-B-32",
    images: Annotated[int, typer.Option(help="Photographs of 640 × 480 pixels.")] = 192,
    rounds: Annotated[int, typer.Option(help="Rounds, after one to warm up.")] = 3,
    cores: Annotated[int, typer.Option(help="Of the processor, for each in its turn.")] = 2,
    quick: Annotated[bool, typer.Option(help="A tiny encoder, one round: does it run?")] = False,
) -> None:
    """Measure pictures a second from JPEG tars to stored embeddings, side by side.

    The photographs and the weights are made here: both decide nothing of the speed. Peers resize
    and crop, ours pads with white; all encode the same number of pixels. The column "cosine" is the
    lowest of a few embeddings to those of plain open_clip in float32, of the same squares.

    [bold cyan]python -m benchmarks.embedding --json embedding.json[/bold cyan] takes five minutes
    on two cores. [bold cyan]--systems corgi,open_clip[/bold cyan] needs no package registry.
    """
    console, names = Console(highlight=False), systems.split(",")
    for name in names:
        if name not in MODULES:
            raise CorgiError(f"there is no system {name!r}", f"choose among {', '.join(MODULES)}")
    if min(images, rounds, cores) < 1:
        raise CorgiError("there is nothing to measure", "give numbers above 0")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    with tempfile.TemporaryDirectory(prefix="corgi-embedding-") as folder, ExitStack() as stack:
        status = stack.enter_context(console.status("photographs and weights …"))
        case = _case(Path(folder), architecture, images, quick)
        running = stack.enter_context(children(names, cores, Path(folder)))
        contenders = []
        for child in running:
            status.update(f"{child.name}: looking for its best settings …")
            contenders += contenders_of(child, case, quick)
        for number in in_turns(contenders, 1 if quick else rounds):
            status.update(f"round {number + 1} …")
        for contender in contenders:
            asked = contender.child.ask("check", **contender.work)
            contender.about["cosine"] = asked["cosine"]
    rows = [contender.row() for contender in contenders]
    console.print(table_of(rows))
    console.print(verdict(rows))
    if json is not None:
        write_json(json, rows)


def _case(folder: Path, architecture: str, images: int, quick: bool) -> Case:
    """Photographs in shards and an encoder with random weights, below `folder`."""
    import open_clip

    from corgi_core.encoders.open_clip_model import OpenClipModel

    sides, shard, config = (640, 480), SHARD, None
    if quick:
        sides, shard, images, architecture = (96, 72), 4, 12, "corgi-benchmark-tiny"
        config = folder / f"{architecture}.json"
        config.write_text(json_library.dumps(TINY))
        open_clip.add_model_config(config)
    samples = (
        Sample(
            f"{n:08d}", photograph(n, *sides), [f"photograph {n}"], "train", "made", str(n), "jpg"
        )
        for n in range(images)
    )
    write_dataset(folder / "images", samples, shard)
    model = open_clip.create_model(architecture)
    path = folder / "model"
    path.mkdir()
    description = open_clip.get_model_config(architecture)
    OpenClipModel(architecture, model, description, open_clip.get_tokenizer("ViT-B-32")).save(path)
    return Case(
        str(folder / "images"), str(path), architecture, None if config is None else str(config)
    )


@contextmanager
def children(names: Sequence[str], threads: int, folder: Path) -> Iterator[list[Child]]:
    """The named systems' processes, each with so many threads; ended on leaving."""
    environment = {
        **os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    home = Path(os.environ.get("CORGI_HOME", ".corgi")) / "benchmarks"
    with ExitStack() as stack:
        running = []
        for name in names:
            python = Path(sys.executable)
            if name == CLIP_RETRIEVAL:
                python = python_with(REQUIREMENTS, home, name)
            module = f"benchmarks.embedding_systems.{MODULES[name]}"
            process = subprocess.Popen(
                [python, "-m", module, folder / f"work-{name}"], cwd=REPOSITORY, env=environment,
                text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            stack.callback(end_child, process)
            running.append(Child(name, process))
        yield running


def contenders_of(child: Child, case: Case, quick: bool) -> list[Contender]:
    """A system in float32 and at its fastest, each with the best of a few settings.

    bfloat16 is left out where the processor has no instructions for it and takes far longer.
    """
    halves = quick or _multiplies_bfloat16()
    if child.name == "corgi":
        ours = [_warmed("fp32", child, case)]
        if halves:
            half = replace(case, precision="bf16")
            ours.append(_warmed("bf16", child, half))
            ours.append(_warmed("bf16, stored first", child, replace(half, stored=True)))
        return ours
    if child.name == CLIP_RETRIEVAL:
        return [_best(child, case, [(64, 2), (64, 1), (256, 2)][: 1 if quick else None])]
    exact = _best(child, case, [(32, 2), (32, 1), (128, 2), (32, 0)][: 2 if quick else None])
    if not halves:
        return [exact]
    best = Case(**exact.work["case"])
    rounded = [
        _warmed(precision, child, replace(best, precision=precision))
        for precision in ("bf16", "amp_bf16")
    ]
    return [exact, min(rounded, key=lambda contender: contender.first)]


def _multiplies_bfloat16() -> bool:
    processor = torch.cpu.get_capabilities()
    return bool(processor.get("avx512_bf16") or processor.get("amx_bf16"))


def _best(child: Child, case: Case, settings: Sequence[tuple[int, int]]) -> Contender:
    """The fastest of some (batch, workers)."""
    tried = [
        _warmed("fp32", child, replace(case, batch=batch, workers=workers))
        for batch, workers in settings
    ]
    return min(tried, key=lambda contender: contender.first)


def _warmed(label: str, child: Child, case: Case) -> Contender:
    """The contender after a round that loads and warms up, and one that is compared by."""
    asked = asdict(case)
    columns = ("architecture", "precision", "batch", "workers")
    about = {"label": label, **{name: asked[name] for name in columns}}
    contender = Contender(child, {"case": asked}, about)
    child.ask("check", case=asked)
    contender.warm()
    return contender


def table_of(rows: Sequence[Row]) -> Table:
    """Systems down; each rate with its range over the rounds."""
    ours = [row for row in rows if row["system"] == "corgi"]
    table = Table(
        title="Photographs embedded a second: median, range, processor time of each",
        box=box.SIMPLE_HEAD,
    )
    for column in ("system", "a second", "range", "CPU ms", "cosine", "ours is"):
        table.add_column(column, justify="left" if column == "system" else "right", no_wrap=True)
    best = max((each["per_second"] for each in ours), default=0.0)
    for row in rows:
        peer = row["system"] != "corgi"
        how = f", batch {row['batch']}, {row['workers']} workers" if peer else ""
        table.add_row(
            f"{row['system']}, {row['label']}{how}", f"{row['per_second']:.1f}",
            f"{row['slowest']:.1f}–{row['fastest']:.1f}", f"{row['processor_ms']:.1f}",
            f"{row['cosine']:.5f}", f"{best / row['per_second']:.2f} ×" if peer and ours else "",
        )  # fmt: skip
    return table


def verdict(rows: Sequence[Row]) -> str:
    """Ours against the fastest peer: both in any precision, both in float32, and ours by default.

    By default ours computes on a CPU in float32, whatever its peers do.
    """
    exact = {"fp32"}
    every = {row["precision"] for row in rows}
    lines = []
    for name, ours, peers in (
        ("In any precision", every, every),
        ("In float32", exact, exact),
        ("As it is by default", exact, every),
    ):
        mine = [r["per_second"] for r in rows if r["system"] == "corgi" and r["precision"] in ours]
        other = [
            r["per_second"] for r in rows if r["system"] != "corgi" and r["precision"] in peers
        ]
        if mine and other:
            ratio = max(mine) / max(other)
            met = "reached" if ratio >= GOAL else "not reached"
            lines.append(
                f"{name}, ours is {ratio:.2f} times as fast as the best peer "
                f"(goal {GOAL:g}: {met})."
            )
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        app()
    except CorgiError as error:
        sys.exit(f"{error}")
