"""`corgi compare-runs`: how much better one model is than another, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
)
from orchestration.cli.results import print_table

if TYPE_CHECKING:
    from corgi_core.evaluation.paired import Difference
    from orchestration.resources.scored_runs import ScoredModel

OF_PICTURES = ("fid", "fid_bias", "frechet_clip", "frechet_clip_bias", "clip_similarity")
"""One number a model, without captions."""


def compare_runs(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="A B …",
            help="Names or ids of MLflow runs; all are compared with the first.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The chart of the differences, a PNG.")] = Path(
        "compared.png"
    ),
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Compare models on the same captions: differences with 95 % intervals.

    Captions are resampled for both models at once (a paired bootstrap), and training seeds where
    there are several. An interval without 0 is a difference that the captions bear out. Runs of
    different protocols are refused.

    [bold cyan]corgi compare-runs prior-baseline-100pc prior-shifted-k1-100pc[/bold cyan]
    """
    from corgi_core.errors import CorgiError
    from corgi_core.evaluation.paired import difference_chart, differences
    from corgi_core.io.pictures import save_png
    from orchestration.resources.scored_runs import scored_model
    from orchestration.resources.tracking import MLflow

    if len(runs) < 2:
        raise CorgiError(f"one run, {runs[0]}, is compared with nothing", "name two runs or more")
    mlflow = MLflow.of(chosen_settings(preset, dataset, config, overrides))
    first, *others = (scored_model(mlflow, word) for word in runs)
    compared: dict[str, list[Difference]] = {}
    console = Console(highlight=False)
    for word, other in zip(runs[1:], others, strict=True):
        title = other.name if word == other.name else f"{other.name} {word[:8]}"
        compared[title] = differences(first.by_seed, other.by_seed, (first.name, title))
        _print(console, first, other, compared[title])
    save_png(difference_chart(compared, first.name), out, {"runs": runs})
    console.print(f"Chart: {out}", markup=False, soft_wrap=True)


def _print(
    console: Console, first: ScoredModel, other: ScoredModel, found: list[Difference]
) -> None:
    rows = [
        [each.score, f"{each.a:.4f}", f"{each.b:.4f}", f"{each.value:+.4f}",
         f"{each.low:+.4f} to {each.high:+.4f}"]
        for each in found
    ]  # fmt: skip
    for name in OF_PICTURES:
        if name in first.metrics and name in other.metrics:
            a, b = first.metrics[name], other.metrics[name]
            rows.append([name, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}", "–"])
    captions = len(next(iter(first.by_seed.values())).captions)
    seeds = ", ".join(f"{len(m.by_seed)} of {m.name}" for m in (first, other))
    title = f"{other.name} against {first.name}: {captions} captions; training seeds: {seeds}"
    heads = ["score", first.name, other.name, "difference", "95 % interval"]
    print_table(console, title, heads, rows)
