"""The study's report: figures and tables of all seeds, and its metrics as charts over steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from corgi_core.config import Preset
from corgi_core.experiments.prior_ablation.figures import FIGURES
from corgi_core.experiments.prior_ablation.tables import tables_of
from corgi_core.experiments.report import StudyReport
from corgi_core.io.pictures import rendered

METRICS = (
    "cosine", "shuffled_cosine", "recall_at_1", "recall_at_5", "frechet", "spread", "variance",
)  # fmt: skip


def compose_report(parts: Iterable[StudyReport], preset: Preset) -> StudyReport:
    """The report of all seeds: their rows, every figure, and every table."""
    report = StudyReport.joined(part.rows for part in parts)
    report.pictures = {name: rendered(plot(report, preset)) for name, plot in FIGURES.items()}
    report.tables = tables_of(report, preset)
    return report


def metrics_by_step(rows: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """One arm's measurement as entries {"step": …, metric: value} for charts over the steps.

    The steps are the sampler's; those of "training/held_out_cosine" are the training's. "dpm++" is
    written "dpmpp", because MLflow's names have no plus.
    """
    for row in rows["samples"]:
        way = f"{row['sampler'].replace('+', 'p')}-guidance{row['guidance']:g}"
        yield {"step": row["steps"], **{f"{way}/{m}": row[m] for m in METRICS if m in row}}
    for row in rows["training"]:
        yield {"step": row["step"], "training/held_out_cosine": row["held_out_cosine"]}
