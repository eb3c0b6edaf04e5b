"""A million images on a laptop: `python -m benchmarks.scale --images 100000,1000000`.

Every step is the real one, in a process of its own, over made images: JPEGs of 32 pixels with a
caption each, no two alike, in tars. They are ingested, pass the gate and its checks, become pixels
(32 × 32), CLIP embeddings (width 32) and text tokens (width 32), of CLIP's towers that were trained
for some steps; then a caption subset, 16 Gaussians, some steps of a prior and of a decoder, and the
evaluation. Images and networks are tiny so that the data count and not products of matrices.

Printed for every step: its seconds, without those of its imports; how many times those of the
smaller size they are; and the highest resident memory of any of its processes, Ray's included.
`--manifest-rows 100000000` simulates what is done with manifests of that many rows instead.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.scale_steps.child import STEPS
from benchmarks.scale_steps.made import write_settings, write_tars, write_text_encoder
from benchmarks.scale_steps.watched import watched
from corgi_core.io.files import write_json

MOST_TIMES = 12.0  # a step's time over that of a tenth of the images
MOST_BYTES = 4e9  # of any process
CHILD = "benchmarks.scale_steps.child"

Row = dict[str, Any]


def main(
    images: Annotated[
        str, typer.Option(help="Numbers of images, with commas between.")
    ] = "100000,1000000",
    steps: Annotated[str, typer.Option(help="The last step, for a part of them.")] = STEPS[-1],
    training_steps: Annotated[int, typer.Option(help="Of each training.")] = 20,
    workers: Annotated[int, typer.Option(help="Of Ray; 0 is none.")] = 1,
    folder: Annotated[Path | None, typer.Option(help="Where data are written, and left.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the table's rows to this file.")
    ] = None,
    manifest_rows: Annotated[
        int, typer.Option(help="Simulate manifests of so many rows, and nothing else.")
    ] = 0,
) -> None:
    """Time and memory of every step at each size, as a table in Markdown."""
    if manifest_rows:
        from benchmarks.scale_steps.manifests import simulate

        print(simulate(manifest_rows))
        return
    sizes = sorted(map(int, images.split(",")))
    wanted = STEPS[: STEPS.index(steps) + 1]
    rows: list[Row] = []
    for size in sizes:
        home = Path(tempfile.mkdtemp(prefix="corgi-scale-")) if folder is None else folder
        try:
            rows += measure(home / str(size), size, wanted, workers, training_steps)
        finally:
            if folder is None:
                shutil.rmtree(home, ignore_errors=True)
        if json_file is not None:
            write_json(json_file, rows)
    print(report(rows))


def measure(
    folder: Path, images: int, steps: Sequence[str], workers: int, training_steps: int
) -> list[Row]:
    """Make the data, then do the steps one after the other; what is in `folder` is done already."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (settings := folder / "scale.yaml").exists():
        began = time.perf_counter()
        write_tars(folder / "tars", images)
        encoder = write_text_encoder(folder / "text_encoder")
        write_settings(settings, encoder, workers, training_steps)
        print(f"{images:,} images made in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    rows = []
    for step in steps:
        if (done := folder / f"{step}.json").exists():
            row = json.loads(done.read_text())
        else:
            found = watched([sys.executable, "-m", CHILD, step, str(folder)])
            seconds = json.loads(found.output.splitlines()[-1])["seconds"]
            row = {"step": step, "images": images, "seconds": seconds, "peaks": found.peaks}
            write_json(done, row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def report(rows: Sequence[Row]) -> str:
    """The table, and whether both bounds hold."""
    sizes = sorted({row["images"] for row in rows})
    found = {(row["step"], row["images"]): row for row in rows}
    heads = [f"{size:,} images, s" for size in sizes]
    times = [f"times, of {b:,}/{a:,}" for a, b in itertools.pairwise(sizes)]
    lines = [
        f"{platform.machine()}, {os.cpu_count()} CPUs, {time.strftime('%Y-%m-%d')}", "",
        f"| step | {' | '.join([*heads, *times, 'peak memory of a process, GB'])} |",
        "|---|" + "--:|" * (len(heads) + len(times) + 1),
    ]  # fmt: skip
    faults = []
    for step in dict.fromkeys(row["step"] for row in rows):
        there = [found.get((step, size)) for size in sizes]
        seconds = [row["seconds"] if row else float("nan") for row in there]
        ratios = [b / a for a, b in itertools.pairwise(seconds)]
        peak = max(max(row["peaks"].values()) for row in there if row)
        for ratio, (a, b) in zip(ratios, itertools.pairwise(sizes), strict=True):
            if ratio > MOST_TIMES * (b / a) / 10:
                faults.append(f"{step} takes {ratio:.1f} times as long for {b / a:g} times as many")
        if peak >= MOST_BYTES:
            faults.append(f"{step} had {peak / 1e9:.2f} GB")
        cells = [f"{s:.1f}" for s in seconds] + [f"{r:.1f}" for r in ratios]
        lines.append(f"| {step} | {' | '.join([*cells, f'{peak / 1e9:.2f}'])} |")
    bounds = f"under {MOST_BYTES / 1e9:g} GB a process, and no more than {MOST_TIMES:g} times"
    lines += ["", f"Not {bounds}: {'; '.join(faults)}." if faults else f"All {bounds}."]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
