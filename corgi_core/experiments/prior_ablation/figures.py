"""The study's figures, one function each, plotted from the tidy rows of all seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from corgi_core.config import Preset
from corgi_core.experiments.panels import (
    BLACK,
    BLUE,
    COLOURS,
    GREEN,
    MARKERS,
    ORANGE,
    SKY,
    TITLES,
    count_axis,
    front,
    label_lines,
    line,
    new_figure,
    point,
)
from corgi_core.experiments.prior_ablation.arms import (
    BASELINE,
    BASELINE_RAW,
    SHIFT_ONLY,
    Start,
    scale_only,
    shifted,
    shifted_text,
)
from corgi_core.experiments.prior_ablation.measure import START
from corgi_core.experiments.prior_ablation.sweeps import PAPER_KAPPA, Sampling, rows_of, sweeps_of
from corgi_core.experiments.report import StudyReport

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

QUALITY = ("cosine", "recall_at_5", "frechet")
QUALITY_AND_SPREAD = (*QUALITY, "spread")
PLAIN = Sampling(1)  # its sampler and guidance are those of every figure that does not vary them


def by_steps(report: StudyReport, preset: Preset) -> Figure:
    """The paper's Figure 10 and its controls: baseline and shifted priors by sampling steps."""
    starts = _and_the_papers(preset)
    return _steps_figure(report, preset, starts, "Baseline and shifted priors, by sampling steps")


def baseline_scalings(report: StudyReport, preset: Preset) -> Figure:
    """N(0, I) for embeddings of norm √d and of norm 1."""
    starts = {BASELINE: BLACK, BASELINE_RAW: SKY}
    return _steps_figure(report, preset, starts, "The baseline's two scalings, by sampling steps")


def _steps_figure(
    report: StudyReport, preset: Preset, starts: dict[Start, str], title: str
) -> Figure:
    rows = _plain(report.frame("samples"))
    metrics = ("cosine", "shuffled_cosine", "recall_at_1", "recall_at_5", "frechet")
    figure, panels = new_figure(title, 1, len(metrics))
    for panel, metric in zip(panels[0], metrics, strict=True):
        for start, colour in starts.items():
            line(panel, _of(rows, start), "steps", metric, start.label, colour)
        panel.set_title(TITLES[metric], fontsize=10)
        count_axis(panel, preset.study.steps, "sampling steps")
    label_lines(panels[0][-1])
    return figure


def by_timestep(report: StudyReport, preset: Preset) -> Figure:
    """The paper's Figure 12: how near ẑ_0 is at every timestep, and where the sampling starts."""
    rows = report.frame("timesteps")
    figure, ((at_start, along),) = new_figure(
        "Where sampling starts, and how near ẑ_0 is on its way", 1, 2
    )
    starts = {**_and_the_papers(preset), BASELINE_RAW: SKY}
    for position, (start, colour) in enumerate(starts.items()):
        of_start = _of(rows, start)
        initial = of_start[of_start["of"] == START].assign(position=position)
        point(at_start, initial, "position", "cosine", start.label, colour, MARKERS[position])
        line(
            along, of_start[of_start["of"] != START], "timestep", "cosine", start.label, colour,
            markersize=0,
        )  # fmt: skip
    at_start.set_xticks(range(len(starts)), [s.name for s in starts], rotation=20, ha="right")
    at_start.set_title("cosine of z_T to z_0", fontsize=10)
    along.set_title("cosine of ẑ_0 to z_0", fontsize=10)
    along.set_xlabel("timestep t, from noise to embedding")
    along.invert_xaxis()
    label_lines(along)
    return figure


def by_gaussians(report: StudyReport, preset: Preset) -> Figure:
    """The paper's Figure 13: one Gaussian or many, fitted or learned."""
    rows = _plain(report.frame("samples"))
    kappa, numbers = preset.gaussians.kappa, preset.study.gaussians
    clusters = _of(rows, *(shifted(kappa, k) for k in numbers))
    learned = _of(rows, shifted(kappa, numbers[-1], learned=True))
    every = _of(rows, shifted_text(kappa))
    # of arms that small data scaled down to the same k, one is enough
    clusters = clusters.drop_duplicates(["k", "seed", "steps"])
    figure, panels = new_figure("One Gaussian or many", 1, len(QUALITY_AND_SPREAD))
    for panel, metric in zip(panels[0], QUALITY_AND_SPREAD, strict=True):
        for steps, colour in zip(preset.study.main_steps, COLOURS[1:], strict=False):
            at = clusters[clusters["steps"] == steps]
            line(panel, at, "k", metric, f"{steps} steps", colour)
            if not learned.empty:
                at = learned[learned["steps"] == steps]
                point(panel, at, "k", metric, "_learned", colour, "*")
            for found, style in ((_of(rows, BASELINE), ":"), (every, "--")):
                mean = found[found["steps"] == steps][metric].mean()
                panel.axhline(mean, color=colour, linestyle=style, linewidth=1)
        panel.set_title(TITLES[metric], fontsize=10)
        count_axis(
            panel, sorted(clusters["k"].unique()),
            "Gaussians k (★ learned; dotted: baseline; dashed: one for every caption)",
        )  # fmt: skip
    label_lines(panels[0][-1])
    return figure


def by_width(report: StudyReport, preset: Preset) -> Figure:
    """Shift and scale apart, at equal scale: how wide the start is, at μ or at 0."""
    rows, kappas = _plain(report.frame("samples")), preset.study.kappas
    lines = {
        "at μ: shifted, κσ": (_of(rows, *map(shifted, kappas)), BLUE),
        "at 0: scale only, κσ": (_of(rows, *map(scale_only, kappas)), ORANGE),
    }
    steps = preset.study.main_steps
    figure, panels = new_figure(
        "The start's deviation and its mean, each alone", len(QUALITY_AND_SPREAD), len(steps),
        sharex=True,
    )  # fmt: skip
    for metric, in_row in zip(QUALITY_AND_SPREAD, panels, strict=True):
        for panel, count in zip(in_row, steps, strict=True):
            for label, (found, colour) in lines.items():
                at = found[found["steps"] == count]
                line(panel, at, "kappa", metric, label, colour)
            for start, colour, marker in ((SHIFT_ONLY, GREEN, "^"), (BASELINE, BLACK, "s")):
                at = _of(rows, start).query("steps == @count")
                at = at.assign(width=at["width"].mean())  # seeds share the data, hence the width
                point(panel, at, "width", metric, start.label, colour, marker)
            panel.set_xscale("log", base=2)
            panel.set_xticks(kappas, [f"{k:g}" for k in kappas])
            panel.minorticks_off()
        in_row[0].set_ylabel(TITLES[metric].partition(" (")[0], fontsize=9)
    for panel, count in zip(panels[0], steps, strict=True):
        panel.set_title(f"{count} sampling step{'s' * (count > 1)}", fontsize=10)
    for panel in panels[-1]:
        panel.set_xlabel("the start's deviation, in the embeddings' own (κ)")
    panels[0][-1].legend(fontsize=8, frameon=False)
    return figure


def by_guidance(report: StudyReport, preset: Preset) -> Figure:
    """Classifier-free guidance."""
    steps = preset.study.guided_steps
    rows = report.frame("samples").query("steps == @steps and sampler == @PLAIN.sampler")
    figure, panels = new_figure(
        f"Guidance, at {steps} sampling steps", 1, len(QUALITY_AND_SPREAD)
    )  # fmt: skip
    for panel, metric in zip(panels[0], QUALITY_AND_SPREAD, strict=True):
        for start, colour in _three(preset).items():
            line(panel, _of(rows, start), "guidance", metric, start.label, colour)
        panel.set_title(TITLES[metric], fontsize=10)
        panel.set_xlabel("guidance (1 is none)")
    label_lines(panels[0][-1])
    return figure


def by_captions(report: StudyReport, preset: Preset) -> Figure:
    """Semi-supervised training: the share of the training images that have a caption."""
    rows = _plain(report.frame("samples"))
    rows = rows.assign(percent=100 * rows["captions"])
    steps = preset.study.main_steps[-1]
    figure, panels = new_figure(
        f"How many captions it takes, at {steps} sampling steps", 1, len(QUALITY)
    )
    for panel, metric in zip(panels[0], QUALITY, strict=True):
        for start, colour in _three(preset).items():
            found = rows[(rows["start"] == start.name) & (rows["steps"] == steps)]
            line(panel, found, "percent", metric, start.label, colour)
        panel.set_title(TITLES[metric], fontsize=10)
        count_axis(panel, [100 * c for c in preset.study.captions], "% of captions")
    label_lines(panels[0][-1])
    return figure


def by_wall_time(report: StudyReport, preset: Preset) -> Figure:
    """Held-out cosine while training, against the steps and against the clock."""
    rows = report.frame("training")
    clock = rows.groupby(["start", "step"])["seconds"].transform("mean")
    rows = rows.assign(seconds=clock)  # seeds differ in their clocks: their mean stands for all
    figure, panels = new_figure("Quality while training", 1, 2, sharey=True)
    for panel, (x, label) in zip(
        panels[0], (("step", "training steps"), ("seconds", "seconds, one core")), strict=True
    ):
        for start, colour in _three(preset).items():
            line(panel, _of(rows, start), x, "held_out_cosine", start.label, colour)
        panel.set_xlabel(label)
    panels[0][0].set_ylabel(TITLES["held_out_cosine"])
    label_lines(panels[0][-1])
    return figure


def by_sampler(report: StudyReport, preset: Preset) -> Figure:
    """Every sampler with few steps, over its own quality with the most."""
    rows = report.frame("samples").query("guidance == 1")
    most = preset.study.steps[-1]
    keys = ["start", "captions", "seed", "sampler"]
    settled = rows[rows["steps"] == most].set_index(keys)[list(QUALITY)]
    rows = rows.join(settled, on=keys, rsuffix="_settled")
    for metric in QUALITY:
        rows[metric] = rows[metric] / rows[f"{metric}_settled"]
    figure, panels = new_figure(
        f"Few steps against the same sampler's {most}", 2, len(QUALITY), sharex=True
    )
    for (start, _), in_row in zip(_pair(preset).items(), panels, strict=True):
        for panel, metric in zip(in_row, QUALITY, strict=True):
            panel.axhspan(0.98, 1.02, color=BLACK, alpha=0.08, linewidth=0)
            for sampler, colour in zip(preset.study.samplers, COLOURS, strict=False):
                found = _of(rows, start)
                found = found[found["sampler"] == sampler]
                line(panel, found, "steps", metric, sampler, colour)
            count_axis(panel, preset.study.steps, "")
        in_row[0].set_ylabel(start.label, fontsize=9)
        label_lines(in_row[-1])
    for panel, metric in zip(panels[0], QUALITY, strict=True):
        panel.set_title(f"{TITLES[metric].partition(' (')[0]}, relative", fontsize=10)
    for panel in panels[-1]:
        panel.set_xlabel("sampling steps (grey: within 2 %)")
    return figure


def by_contrast(report: StudyReport, preset: Preset) -> Figure:
    """What retrieval a contrastive term buys, and for how much spread and Fréchet distance."""
    (sweep,) = (sweep for sweep in sweeps_of(preset) if sweep.name == "contrast")
    rows = report.frame("samples")
    figure, ((by_spread, by_frechet),) = new_figure(
        "A contrastive term, by its weight", 1, 2, sharey=True
    )
    for sampling, colour, marker in zip(sweep.samplings, COLOURS[1:], MARKERS, strict=False):
        label = f"{sampling.steps} steps, guidance {sampling.guidance:g}"
        found = [rows_of(rows, arm, sampling) for arm in sweep.arms]
        weights = [f"{dict(arm.settings).get('contrast', 0):g}" for arm in sweep.arms]
        for panel, metric in ((by_spread, "spread"), (by_frechet, "frechet")):
            front(panel, found, metric, "recall_at_5", weights, label, colour, marker)
    by_spread.set_ylabel(TITLES["recall_at_5"])
    by_spread.set_xlabel(TITLES["spread"])
    by_frechet.set_xlabel(TITLES["frechet"])
    by_frechet.legend(fontsize=8, frameon=False)
    return figure


FIGURES: dict[str, Callable[[StudyReport, Preset], Any]] = {
    "steps": by_steps,
    "timesteps": by_timestep,
    "gaussians": by_gaussians,
    "kappa": by_width,
    "baseline_scalings": baseline_scalings,
    "guidance": by_guidance,
    "captions": by_captions,
    "samplers": by_sampler,
    "wall_time": by_wall_time,
    "contrast": by_contrast,
}


def _pair(preset: Preset) -> dict[Start, str]:
    """The baseline and the project's shifted prior, with their colours."""
    return {BASELINE: BLACK, shifted(preset.gaussians.kappa): BLUE}


def _three(preset: Preset) -> dict[Start, str]:
    """The pair, and a Gaussian for every caption."""
    return {**_pair(preset), shifted_text(preset.gaussians.kappa): GREEN}


def _and_the_papers(preset: Preset) -> dict[Start, str]:
    return {**_three(preset), shifted(PAPER_KAPPA): ORANGE}


def _of(rows: pd.DataFrame, *starts: Start) -> pd.DataFrame:
    """Rows of arms that differ from the preset in their start alone, with all captions."""
    names = [start.name for start in starts]
    return rows[rows["start"].isin(names) & (rows["captions"] == 1)]


def _plain(samples: pd.DataFrame) -> pd.DataFrame:
    """Samples of the paper's sampler, not guided."""
    return samples[(samples["sampler"] == PLAIN.sampler) & (samples["guidance"] == PLAIN.guidance)]
