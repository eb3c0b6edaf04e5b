"""The study's numbers in Markdown: every sweep's arms, and what each idea brings by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from corgi_core.config import Preset
from corgi_core.experiments.intervals import HALF, MEAN, over_seeds, paired
from corgi_core.experiments.prior_ablation.arms import (
    BASELINE,
    SHIFT_ONLY,
    Arm,
    Start,
    scale_only,
    shifted,
)
from corgi_core.experiments.prior_ablation.measure import REFERENCES
from corgi_core.experiments.prior_ablation.methods import DIFFUSION
from corgi_core.experiments.prior_ablation.sweeps import (
    Sampling,
    Sweep,
    early_steps,
    rows_of,
    sweeps_of,
)
from corgi_core.experiments.report import StudyReport, markdown

if TYPE_CHECKING:
    import pandas as pd

METRICS = {
    "cosine": "cosine",
    "shuffled_cosine": "shuffled",
    "recall_at_1": "recall@1",
    "recall_at_5": "recall@5",
    "frechet": "Fréchet",
    "spread": "spread",
}
KEYS = ["label", "captions", "sampler", "steps", "guidance", "weak"]


def tables_of(report: StudyReport, preset: Preset) -> dict[str, str]:
    """Markdown tables by name: the mean over seeds ± the 95 % interval's half-width.

    The tables of sweeps begin with what needs no prior.
    """
    sweeps = sweeps_of(preset)
    samples, references = report.frame("samples"), _references(report.frame(REFERENCES))
    tables = {sweep.name: _table(samples, sweep, references) for sweep in sweeps if sweep.samplings}
    if {"kappa", "shift_and_scale"} <= {sweep.name for sweep in sweeps}:
        tables["contributions"] = contributions(samples, preset)
    if others := [
        sweep
        for sweep in sweeps
        if sweep.against is None and any(a.method != DIFFUSION for a in sweep.arms)
    ]:
        tables["methods"] = over_diffusion(samples, others, preset)
    for sweep in sweeps:
        if sweep.against is not None:
            tables[f"{sweep.name}_differences"] = differences(samples, sweep, sweep.against)
    heads = [head for head in METRICS.values() if any(head in each for each in references.values())]
    lines = [[label, *(each[head] for head in heads)] for label, each in references.items()]
    alone = markdown(["instead of a prior", *heads], lines)
    return {REFERENCES: alone, **tables}


def _references(rows: pd.DataFrame) -> dict[str, dict[str, str]]:
    """The cells of what needs no prior, by its label and the metrics' heads."""
    return {
        str(label): {
            head: _cell(over_seeds(found, ["label"], metric))
            for metric, head in METRICS.items()
            if metric in rows
        }
        for label, found in rows.groupby("label", sort=False)
    }


def contributions(samples: pd.DataFrame, preset: Preset) -> str:
    """What the shift and the scale bring: differences between arms, paired by seed.

    Each at its own scale: two starts that are equally wide differ in their mean alone.
    """
    kappas = dict.fromkeys((preset.gaussians.kappa, *preset.study.kappas))
    pairs = [
        ("both, over the baseline", shifted(preset.gaussians.kappa), BASELINE),
        ("the shift, at deviation 1", SHIFT_ONLY, BASELINE),
        *((f"the shift, at κ = {k:g}", shifted(k), scale_only(k)) for k in kappas),
        *((f"the scale, at 0, κ = {k:g}", scale_only(k), BASELINE) for k in kappas),
    ]
    lines = []
    for name, one, other in pairs:
        for steps in preset.study.main_steps:
            found, others = (_main(samples, start, steps) for start in (one, other))
            cells = [_cell(paired(found, others, ["steps"], m), signed=True) for m in METRICS]
            lines.append([name, str(steps), *cells])
    return markdown(["what", "steps", *METRICS.values()], lines)


def over_diffusion(samples: pd.DataFrame, sweeps: Iterable[Sweep], preset: Preset) -> str:
    """What another network or loss brings, over the prior's own from the same start.

    Differences at the same steps and guidance, paired by seed; the prior's own is sampled by its
    own sampler, whatever the other's.
    """
    way = ["steps", "guidance"]
    lines = []
    for sweep in sweeps:
        for arm in (arm for arm in sweep.arms if arm.method != DIFFUSION):
            own = replace(arm, method=DIFFUSION, snapshots=early_steps(preset)).family
            others = samples[
                (samples["start"] == own) & (samples["sampler"] == Sampling.sampler)
                & (samples["weak"] == 0)
            ]  # fmt: skip
            for s in sweep.samplings:
                found = rows_of(samples, arm, s)
                cells = [_cell(paired(found, others, way, m), signed=True) for m in METRICS]
                lines.append([arm.label, s.sampler, f"{s.guidance:g}", str(s.steps), *cells])
    return markdown(["start", "sampler", "guidance", "steps", *METRICS.values()], lines)


def differences(samples: pd.DataFrame, sweep: Sweep, against: Arm) -> str:
    """What a sweep's arms have more than one of them has, sampled the same way, paired by seed."""
    lines = []
    for arm in (each for each in sweep.arms if each != against):
        for s in sweep.samplings:
            found, others = (rows_of(samples, each, s) for each in (arm, against))
            cells = [_cell(paired(found, others, ["steps"], m), signed=True) for m in METRICS]
            lines.append([arm.label, f"{s.guidance:g}", f"{s.steps}", *cells])
    return markdown([f"over {against.label}", "guidance", "steps", *METRICS.values()], lines)


def _main(samples: pd.DataFrame, start: Start, steps: int) -> pd.DataFrame:
    return samples[
        (samples["start"] == start.name) & (samples["captions"] == 1) & (samples["steps"] == steps)
        & (samples["sampler"] == "ddpm") & (samples["guidance"] == 1)
    ]  # fmt: skip


def _table(samples: pd.DataFrame, sweep: Sweep, references: Mapping[str, Mapping[str, str]]) -> str:
    lines = []
    for arm in sweep.arms:
        for s in sweep.samplings:
            found = rows_of(samples, arm, s)
            cells = [_cell(over_seeds(found, KEYS, metric)) for metric in METRICS]
            guide = f"step {s.weak}" if s.weak else "caption dropped"
            about = [f"{100 * arm.captions:g} %", s.sampler, guide, f"{s.guidance:g}", f"{s.steps}"]
            lines.append([_label(arm, found), *about, *cells])
    heads = ["start", "captions", "sampler", "guided by", "guidance", "steps", *METRICS.values()]
    heads, lines = _without_constants(heads, lines)
    beside = [
        [label, *(cells.get(head, "") for head in heads[1:])] for label, cells in references.items()
    ]
    return markdown(heads, [*beside, *lines])


def _label(arm: Arm, found: pd.DataFrame) -> str:
    """The arm's label; with the k that the data bear, where that is less than was asked for."""
    k = int(found["k"].iloc[0])
    return arm.label if k == arm.start.gaussians else f"{arm.label} (fitted: {k})"


def _without_constants(
    heads: list[str], lines: list[list[str]]
) -> tuple[list[str], list[list[str]]]:
    """Leave out the columns that say nothing: empty ones, and settings that nothing varies."""
    columns = list(zip(*lines, strict=True))
    said = [
        head == "start" or (len(set(cells)) > 1 or (head in METRICS.values() and any(cells)))
        for head, cells in zip(heads, columns, strict=True)
    ]
    rows = [[cell for cell, keep in zip(row, said, strict=True) if keep] for row in [heads, *lines]]
    return rows[0], rows[1:]


def _cell(summary: pd.DataFrame, signed: bool = False) -> str:
    if summary.empty:
        return ""
    mean, half = summary[MEAN].item(), summary[HALF].item()
    return f"{mean:{'+' if signed else ''}.4f} ± {half:.4f}"
