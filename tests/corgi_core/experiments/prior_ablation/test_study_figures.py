"""Figures show the means over seeds, tables write them, and the report survives its folder."""

from __future__ import annotations

import copy
from dataclasses import asdict

import numpy as np
import pytest
from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.evaluation.report import BASELINES, LINEAR_PRIOR, TEXT_EMBEDDING
from corgi_core.experiments.intervals import mean_and_half_width
from corgi_core.experiments.prior_ablation.arms import BASELINE, Arm, shifted, shifted_text
from corgi_core.experiments.prior_ablation.figures import (
    FIGURES,
    by_contrast,
    by_sampler,
    by_steps,
    by_timestep,
    by_width,
)
from corgi_core.experiments.prior_ablation.measure import STUDY
from corgi_core.experiments.prior_ablation.references import MEAN
from corgi_core.experiments.prior_ablation.report import compose_report, metrics_by_step
from corgi_core.experiments.prior_ablation.sweeps import (
    CONTRASTS,
    Sampling,
    plans_of,
    rows_of,
    sweeps_of,
)
from corgi_core.experiments.report import StudyReport, common_protocol
from corgi_core.io.files import digest_of
from tests.helpers.protocols import a_protocol
from tests.helpers.small_study import PRESET

pytestmark = pytest.mark.integration  # trains, or starts processes, for seconds

SEEDS = PRESET.study.seeds
METRICS = ("cosine", "shuffled_cosine", "recall_at_1", "recall_at_5", "frechet")


def value(*parts):
    """A number in (0, 1) that depends on all parts."""
    return float(np.random.default_rng([int(digest_of(str(part)), 16) for part in parts]).uniform())


def part(seed):
    """What measuring every arm of a seed would give, with made-up values."""
    rows = {"samples": [], "timesteps": [], "training": []}
    for plan in plans_of(sweeps_of(PRESET), seed, 3):
        about = plan.arm.about | {"k": plan.arm.start.gaussians, "width": plan.arm.start.kappa}
        for s in plan.samplings:
            names = (*METRICS, "spread") if s in plan.spread else METRICS
            scores = {name: value(plan.arm, s, name) for name in names}
            rows["samples"].append(about | asdict(s) | scores)
        for t in (1000, 999, 332) if plan.timesteps else ():
            of = "z_T" if t == 1000 else "ẑ_0"
            cosine = value(plan.arm, t)
            rows["timesteps"].append(about | {"of": of, "timestep": t, "cosine": cosine})
        for step in (6, 12):
            row = {"step": step, "seconds": step / 2, "held_out_cosine": value(plan.arm, step)}
            rows["training"].append(about | row)
    rows["references"] = [
        {"label": name, "start": name, "seed": seed, **{m: value(name, seed, m) for m in METRICS}}
        for name in (MEAN, *BASELINES)
    ]
    return rows


@pytest.fixture(scope="module")
def report():
    return StudyReport.joined((part(seed) for seed in SEEDS), {STUDY: a_protocol()})


def means(report, start, metric, steps, **way):
    wanted = {"start": start.name, "captions": 1, "sampler": "ddpm", "guidance": 1, "steps": steps}
    wanted |= way
    found = [
        row[metric]
        for row in report.rows["samples"]
        if all(row[name] == value for name, value in wanted.items())
    ]
    assert len(found) == len(SEEDS)
    return mean_and_half_width(found)


def lines_of(panel):
    return {line.get_label(): line for line in panel.get_lines()}


@pytest.mark.parametrize("start", [BASELINE, shifted(1.0), shifted(5.0)])
def test_lines_are_the_means_and_bands_their_intervals(report, start):
    figure = by_steps(report, PRESET)
    for panel, metric in zip(figure.axes, METRICS, strict=True):
        line = lines_of(panel)[start.label]
        plotted = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for steps in PRESET.study.steps:
            mean, half = means(report, start, metric, steps)
            assert plotted[steps] == pytest.approx(mean)
            band = next(b for b in panel.collections if _colour(b) == _hex(line.get_color()))
            at = band.get_paths()[0].vertices
            heights = at[at[:, 0] == steps][:, 1]
            assert heights.min() == pytest.approx(mean - half)
            assert heights.max() == pytest.approx(mean + half)


def _hex(colour):
    from matplotlib.colors import to_hex

    return to_hex(colour)


def _colour(band):
    return _hex(band.get_facecolor()[0][:3])


def test_points_stand_at_their_width_with_their_interval(report):
    figure = by_width(report, PRESET)
    panel = figure.axes[0]  # cosine at the first number of steps
    (container,) = [c for c in panel.containers if c.get_label() == BASELINE.label]
    mean, half = means(report, BASELINE, "cosine", PRESET.study.main_steps[0])
    assert container.lines[0].get_ydata()[0] == pytest.approx(mean)
    (bar,) = container.lines[2][0].get_segments()
    assert sorted(bar[:, 1]) == pytest.approx([mean - half, mean + half])


def test_the_start_stands_apart_from_what_is_predicted_on_the_way(report):
    at_start, along = by_timestep(report, PRESET).axes
    rows = [r for r in report.rows["timesteps"] if r["start"] == BASELINE.name]
    initial = np.mean([row["cosine"] for row in rows if row["of"] == "z_T"])
    first = next(c for c in at_start.containers if c.get_label() == BASELINE.label)
    assert first.lines[0].get_ydata()[0] == pytest.approx(initial)
    line = lines_of(along)[BASELINE.label]
    assert sorted(line.get_xdata()) == [332, 999]


def test_a_sampler_is_compared_with_itself(report):
    figure = by_sampler(report, PRESET)
    for panel in figure.axes:
        for sampler in PRESET.study.samplers:
            line = lines_of(panel)[sampler]
            assert line.get_ydata()[list(line.get_xdata()).index(3)] == pytest.approx(1)


def test_every_figure_says_what_is_plotted_and_every_panel_has_data(report):
    for name, plot in FIGURES.items():
        figure = plot(report, PRESET)
        assert figure.get_suptitle(), name
        for panel in figure.axes:
            assert any(len(line.get_xdata()) for line in panel.get_lines()), name


@pytest.fixture(scope="module")
def whole(report):
    """With all its figures, which take seconds, and tables."""
    return compose_report([report], PRESET)


def test_a_study_that_lacks_a_row_or_mixes_protocols_is_refused(report):
    others = [row for row in report.rows["references"] if row["label"] != LINEAR_PRIOR]
    lacking = StudyReport(report.rows | {"references": others}, protocols=report.protocols)
    with pytest.raises(CorgiError, match=rf"lacks a row .*: {LINEAR_PRIOR}\."):
        compose_report([lacking], PRESET)
    other = StudyReport(report.rows, protocols={STUDY: a_protocol(seed=1, data_version="other")})
    with pytest.raises(CorgiError, match="different protocols: data_version"):
        compose_report([report, other], PRESET)
    with pytest.raises(CorgiError, match="names no protocol"):
        compose_report([StudyReport(report.rows)], PRESET)
    seeds = [StudyReport(report.rows, protocols={STUDY: a_protocol(seed=n)}) for n in (2, 5)]
    assert common_protocol(seeds, STUDY) == a_protocol(seed=2)


def test_protocols_are_stored(report, tmp_path):
    report.save(tmp_path / "report")
    again = StudyReport.load(tmp_path / "report")
    assert again.protocols == report.protocols
    assert again.digest == report.digest
    assert again.digest != StudyReport(report.rows, protocols={STUDY: a_protocol(seed=9)}).digest


def test_tables_write_the_means_and_what_each_idea_brings(report, whole):
    tables = whole.tables
    mean, half = mean_and_half_width([value(TEXT_EMBEDDING, seed, "frechet") for seed in SEEDS])
    sweeps = {sweep.name for sweep in sweeps_of(PRESET) if sweep.samplings}
    for name in {"references", *sweeps}:
        (row,) = [line for line in tables[name].splitlines() if f"| {TEXT_EMBEDDING} |" in line]
        assert f"{mean:.4f} ± {half:.4f}" in row
        assert all(f"| {baseline} |" in tables[name] for baseline in BASELINES)
    for table in tables.values():
        assert a_protocol().line in table
    mean, half = means(report, shifted(1.0, 2), "recall_at_5", 3)
    (row,) = [
        line for line in tables["gaussians"].splitlines() if "k = 2," in line and "| 3 |" in line
    ]
    assert f"{mean:.4f} ± {half:.4f}" in row
    one, other = (
        [r["cosine"] for r in report.rows["samples"]
         if r["start"] == start.name and r["captions"] == 1 and r["steps"] == 3
         and r["sampler"] == "ddpm" and r["guidance"] == 1]
        for start in (shifted(1.0), BASELINE)
    )  # fmt: skip
    mean, half = mean_and_half_width(np.subtract(one, other))
    (row,) = [
        line
        for line in tables["contributions"].splitlines()
        if line.startswith("| both, over the baseline | 3 |")
    ]
    assert f"{mean:+.4f} ± {half:.4f}" in row


def test_a_table_has_each_arms_differences_to_the_sweeps_own_one(report, whole):
    plain = Arm(shifted_text(1.0))
    more = plain.with_setting("contrast", CONTRASTS[1])
    s = Sampling(4, guidance=1.5)
    samples = report.frame("samples")
    one, other = (rows_of(samples, arm, s)["spread"].to_numpy() for arm in (more, plain))
    mean, half = mean_and_half_width(one - other)
    (row,) = [
        line
        for line in whole.tables["contrast_differences"].splitlines()
        if f"contrast = {CONTRASTS[1]:g} | 1.5 | 4 |" in line
    ]
    assert row.endswith(f"| {mean:+.4f} ± {half:.4f} |")


def test_the_front_has_a_point_a_weight_with_both_intervals(report):
    by_spread, by_frechet = by_contrast(report, PRESET).axes
    samples = report.frame("samples")
    plain = rows_of(samples, Arm(shifted_text(1.0)), Sampling(2))
    for panel, metric in ((by_spread, "spread"), (by_frechet, "frechet")):
        container = panel.containers[0]
        line, _, (across, up) = container.lines
        assert len(line.get_xdata()) == 1 + len(CONTRASTS)
        for axis, (name, bars) in enumerate(((metric, across), ("recall_at_5", up))):
            mean, half = mean_and_half_width(plain[name].tolist())
            assert line.get_data()[axis][0] == pytest.approx(mean)
            ends = bars.get_segments()[0][:, axis]
            assert sorted(ends) == pytest.approx([mean - half, mean + half])


@pytest.mark.parametrize("where", ["local", "memory"])
def test_what_is_saved_is_loaded(whole, tmp_path, where):
    folder = UPath(tmp_path if where == "local" else f"memory://{tmp_path.name}") / "study"
    whole.save(folder)
    loaded = StudyReport.load(folder)
    assert loaded.rows == whole.rows
    assert loaded.tables == whole.tables
    assert loaded.digest == whole.digest
    assert loaded.pictures.keys() == FIGURES.keys()


def test_where_there_is_none_it_says_so(tmp_path):
    with pytest.raises(CorgiError, match="no report"):
        StudyReport.load(UPath(tmp_path))


def test_the_digest_is_of_the_values_and_not_of_the_clock_or_the_order(report):
    slower = copy.deepcopy(report.rows)
    for row in slower["training"]:
        row["seconds"] += 1
    protocols = report.protocols
    assert StudyReport(slower, protocols=protocols).digest == report.digest
    turned = StudyReport.joined((part(seed) for seed in reversed(SEEDS)), protocols)
    assert turned.digest == report.digest
    slower["samples"][0]["cosine"] += 0.01
    assert StudyReport(slower, protocols=protocols).digest != report.digest


def test_metrics_by_step_keep_ways_of_sampling_apart():
    entries = list(metrics_by_step(part(0)))
    names = {name for entry in entries for name in entry}
    ways = ("ddpm-guidance1/cosine", "ddim-guidance1/frechet", "ddpm-guidance2/spread")
    assert {f"{way}_by_steps" for way in ways} <= names
    training = [entry["step"] for entry in entries if "training/held_out_cosine" in entry]
    assert training[:2] == [6, 12]
