"""Some sweeps of the study of the prior, in one process: `python -m benchmarks.study`.

`corgi study` trains all of them, an arm a CPU, for hours. This trains and measures those that are
named, by the same code, one arm after the other and seed by seed, so that it can be stopped and
continued; its tables are of the seeds that are whole.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from upath import UPath

from corgi_core.config import preset_named
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.splits import TRAIN
from corgi_core.evaluation.split_overlap import SplitOverlap
from corgi_core.experiments.prior_ablation.arms import fitted_banks
from corgi_core.experiments.prior_ablation.measure import STUDY, Study, measure_arm
from corgi_core.experiments.prior_ablation.references import measure_references
from corgi_core.experiments.prior_ablation.sweeps import plans_of, sweeps_of
from corgi_core.experiments.prior_ablation.tables import tables_of
from corgi_core.experiments.report import StudyReport
from corgi_core.gaussians.stream import EmbeddingStream

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command()
def main(
    stores: Annotated[
        Path, typer.Argument(help="The folder with both embeddings and split_overlap.")
    ],
    images: Annotated[Path, typer.Argument(help="The dataset that they are of.")],
    out: Annotated[Path, typer.Argument(help="For trainings, measurements and tables.")],
    sweeps: Annotated[str, typer.Option(help="Names of sweeps.")],
    preset: Annotated[str, typer.Option(help="Whose study it is.")] = "emoji",
    seeds: Annotated[str, typer.Option(help="Of the trainings.")] = "0,1,2",
) -> None:
    """Train and measure every arm of the sweeps, and write their tables after each seed.

    For example, of a workspace's storage S and dataset D:
    [bold cyan]python -m benchmarks.study S D out --sweeps network,flow,autoguidance[/bold cyan]
    """
    chosen = preset_named(preset)
    chosen = replace(chosen, study=replace(chosen.study, sweeps=tuple(sweeps.split(","))))
    dataset = Dataset.load(UPath(images))
    image, text = (
        ArrayStore.load(UPath(stores) / name) for name in ("image_embeddings", "text_embeddings")
    )
    left_out = SplitOverlap.load(UPath(stores) / "split_overlap").left_out
    training = EmbeddingStream.of_split(dataset, image, TRAIN)
    parts = []
    for seed in map(int, seeds.split(",")):
        plans = plans_of(sweeps_of(chosen), seed, chosen.study.steps[-1])
        banks = fitted_banks(
            training, [plan.arm for plan in plans], image.spec["encoder_dims"], chosen.gaussians,
            seed,
        )  # fmt: skip
        study = Study(dataset, image, text, banks, chosen, out, left_out=left_out)
        rows = []
        for plan in plans:
            rows.append(measure_arm(study, plan))
            print(plan.arm.name, flush=True)
        rows.append(measure_references(study, seed))
        parts.append(StudyReport.joined(rows, {STUDY: study.protocol(seed)}))
        report = StudyReport.joined((part.rows for part in parts), parts[0].protocols)
        for name, table in tables_of(report, chosen).items():
            (out / f"{name}.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    app()
