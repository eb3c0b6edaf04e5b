"""The study's report: figures and tables of all seeds, and its metrics as charts over steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from corgi_core.config import Preset
from corgi_core.evaluation.report import BASELINES
from corgi_core.experiments.panels import protocol_below
from corgi_core.experiments.prior_ablation.figures import FIGURES
from corgi_core.experiments.prior_ablation.measure import REFERENCES, STUDY
from corgi_core.experiments.prior_ablation.sweeps import Sampling, sweeps_of
from corgi_core.experiments.prior_ablation.tables import tables_of
from corgi_core.experiments.report import (
    StudyReport,
    check_rows,
    common_protocol,
    protocol_line,
)
from corgi_core.io.pictures import rendered

NOT_LABELS = ("step", "seconds", "held_out_cosine", "captions")  # of a row of "training"
METRICS = (
    "cosine", "shuffled_cosine", "recall_at_1", "recall_at_5", "frechet", "spread", "variance",
)  # fmt: skip


def compose_report(parts: Iterable[StudyReport], preset: Preset) -> StudyReport:
    """The report of all seeds: their rows, the sweeps' figures and tables, with the protocol.

    Raises:
        CorgiError: the seeds were measured under different protocols, or a row is missing that
            every table begins with.
    """
    seeds = list(parts)
    protocol = common_protocol(seeds, STUDY)
    report = StudyReport.joined((part.rows for part in seeds), {STUDY: protocol})
    references = report.rows.get(REFERENCES, [])
    check_rows([row["label"] for row in references], BASELINES)
    line = protocol_line(protocol, sorted({row["seed"] for row in references}))
    for name in [sweep.name for sweep in sweeps_of(preset) if sweep.name in FIGURES]:
        figure = FIGURES[name](report, preset)
        protocol_below(figure, line)
        report.pictures[name] = rendered(figure)
    report.tables = {name: f"{t}\n{line}\n" for name, t in tables_of(report, preset).items()}
    return report


def arm_labels(about: Mapping[str, Any]) -> dict[str, Any]:
    """What an arm's run is filtered by, under the names that every prior's run has."""
    others = {name: value for name, value in about.items() if name not in NOT_LABELS}
    return {"variant": about["start"], "caption_fraction": about["captions"], **others}


def final_scores(rows: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """One arm's scores by plain names: not guided, by the paper's sampler or its own first.

    They are those at its most steps.
    """
    plain = [row for row in rows["samples"] if row["guidance"] == Sampling.guidance]
    samplers = [row["sampler"] for row in plain]
    own = Sampling.sampler if Sampling.sampler in samplers else samplers[0]
    last = max((row for row in plain if row["sampler"] == own), key=lambda row: int(row["steps"]))
    return {metric: last[metric] for metric in METRICS if metric in last}


def metrics_by_step(rows: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """One arm's measurement as entries {"step": …, metric: value} for charts over the steps.

    The steps are the sampler's; those of "training/held_out_cosine" are the training's. "dpm++" is
    written "dpmpp", because MLflow's names have no plus.
    """
    for row in rows["samples"]:
        way = f"{row['sampler'].replace('+', 'p')}-guidance{row['guidance']:g}"
        way += f"-by-step{row['weak']}" if row["weak"] else ""
        scores = {f"{way}/{m}_by_steps": row[m] for m in METRICS if m in row}
        yield {"step": row["steps"], **scores}
    for row in rows["training"]:
        yield {"step": row["step"], "training/held_out_cosine": row["held_out_cosine"]}
