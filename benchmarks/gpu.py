"""Corgi on one GPU, part by part: `python -m benchmarks.gpu`, under eight minutes.

It needs `corgi_core` and `benchmarks`, not installed, and of the environment torch, numpy, numba,
pandas, pyarrow, pillow, psutil, PyYAML, safetensors, typer, pydantic and universal-pathlib; beside
an image that has PyTorch and the usual libraries, pydantic and universal-pathlib have to be
installed. The embeddings need open_clip_torch and ftfy as well, the cascade and the plain loops
diffusers, FID's features torchvision. A part whose libraries are missing is left out and named.
"""

from __future__ import annotations

import datetime
import gc
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.gpu_cases.case import MATRIX, Row, Sizes, matrix_product, measured, timed
from corgi_core.devices import Device

PARTS = ("embedding", "prior", "cascade", "fid", "pictures")  # modules of gpu_cases
COLUMNS = ("what", "batch", "precision", "a second", "TFLOP/s", "of matmul", "plain loop", "times")


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "best",
    small: Annotated[bool, typer.Option(help="Tiny networks: does it run?")] = False,
    parts: Annotated[str, typer.Option(help="What is measured.")] = ",".join(PARTS),
    seconds: Annotated[float, typer.Option(help="Of measuring, for each row.")] = 20.0,
    out: Annotated[Path | None, typer.Option(help="Append the table to this file.")] = None,
) -> None:
    """Rates of every part, beside the device's own matrix products and plain loops.

    Rounds of ours, the plain loop and a matrix product take turns; the table has their medians.
    Weights are random, at the real sizes: the paper's prior and cascade, and CLIP's encoders.
    """
    began = time.perf_counter()
    sizes = Sizes(Device(device).here(), small)
    torch.manual_seed(0)
    rows, missing = [], []
    for part in parts.split(","):
        try:
            rows += list(_measured(part, sizes, 0.0 if small else seconds))
        except (ImportError, torch.OutOfMemoryError) as error:
            missing.append(f"{part} ({str(error).splitlines()[0]})")
    table = report(sizes, rows, missing, time.perf_counter() - began)
    print(table)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(table + "\n")


def _measured(part: str, sizes: Sizes, seconds: float) -> Iterator[Row]:
    """The rows of a part. The memory of each case is free before the next is built."""
    for case in import_module(f"benchmarks.gpu_cases.{part}").cases(sizes):
        yield measured(case, sizes, seconds)
        del case
        gc.collect()
        if sizes.device.type == "cuda":
            torch.cuda.empty_cache()


def report(sizes: Sizes, rows: Sequence[Row], missing: Sequence[str], seconds: float) -> str:
    """A title with the date and the device, the table, and what is not in it, in Markdown."""
    rates = " and ".join(rates_of(sizes))
    lines = [
        f"### {name_of(sizes.device)}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}", "",
        f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads. Products of matrices "
        f"of {MATRIX[sizes.small]} rows: {rates}. Measured in {seconds:.0f} s.", "",
        f"| {' | '.join(COLUMNS)} |", "|---|--:|---|--:|--:|--:|---|--:|",
        *map(line, rows),
    ]  # fmt: skip
    if missing:
        lines += ["", f"Not measured: {'; '.join(missing)}."]
    return "\n".join([*lines, ""])


def line(row: Row) -> str:
    """One row of the table."""
    peer = f"{row.peer}: {row.peer_per_second:.4g}" if row.peer else "–"
    times = f"{row.per_second / row.peer_per_second:.2f}" if row.peer else "–"
    return (
        f"| {row.case} | {row.batch} | {row.precision} "
        f"| {row.per_second:.4g} {row.unit} ±{row.spread:.0%} | {row.tflops:.3g} "
        f"| {row.share:.0%} | {peer} | {times} |"
    )


def rates_of(sizes: Sizes) -> list[str]:
    """The rates of matrix products, the best of three each."""
    flops = 2 * MATRIX[sizes.small] ** 3
    found = []
    for precision in ("bf16", "fp32"):
        product = matrix_product(sizes, precision)
        best = flops / min(timed(product, sizes.device) for _ in range(3))
        found.append(f"{best / 1e12:.3g} TFLOP/s in {precision}")
    return found


def name_of(device: torch.device) -> str:
    """The device's name, as its maker calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    typer.run(main)
