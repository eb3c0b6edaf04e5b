"""The report: a table, a figure and a grid of images for each comparison.

The tables are Markdown. The figures have a panel for each metric, with the sources of the
embeddings along it and a colour for each decoder.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from corgi_core.config import NO_SUBSET, ComparisonSettings, EvaluationSettings
from corgi_core.evaluation.material import Material
from corgi_core.evaluation.picture_features import REAL, TEXT
from corgi_core.evaluation.report import (
    CONTRASTIVE_PRIOR,
    LINEAR_PRIOR,
    REAL_AGAINST_REAL,
    SHUFFLED,
    STRATA,
    TRAINING_PICTURES,
)
from corgi_core.experiments.decoder_comparison.measure import (
    REAL_IMAGES,
    Comparison,
    measure,
)
from corgi_core.experiments.intervals import HALF, MEAN, over_seeds
from corgi_core.experiments.panels import COLOURS, MARKERS, new_figure, protocol_below
from corgi_core.experiments.report import StudyReport, check_rows, markdown, protocol_line
from corgi_core.io.pictures import rendered

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ROWS = "images"  # the report's table of rows
CASE = ("decoder", "source", "captions")
HEADS = ("decoder", "embedding", "captions")
METRICS = {
    "frechet_clip": "Fréchet ↓",
    "clip_similarity_image": "to the image ↑",
    "clip_similarity_text": "to the text ↑",
    "precision": "precision ↑",
    "recall": "recall ↑",
    "nearest_distance": "to training images",
}
BIASES = {"frechet_clip": ("frechet_clip_bias", "its bias")}  # columns beside those, in tables
COLUMNS = 3
OFFSET = 0.09  # between points at one tick


def report_of(
    comparisons: Iterable[Comparison],
    material: Material,
    settings: ComparisonSettings,
    strata: EvaluationSettings,
) -> StudyReport:
    """Measure all comparisons.

    Args:
        comparisons: What is compared.
        material: CLIP, captions and pixels, training images, and where they are computed with.
        settings: Seeds, number of images, and rows of the grid.
        strata: Which training images are near.

    Returns:
        The report, whose entries are named "supervision" and "language_free"; the tables of the
        images near training and far from it "supervision_near" and so on.
    """
    import pandas as pd

    report = StudyReport({ROWS: []})
    for comparison in comparisons:
        result = measure(comparison, material, settings, strata)
        rows, name = pd.DataFrame(result.rows), comparison.name.replace("-", "_")
        line = protocol_line(result.protocol, settings.seeds)
        check_rows(_names_of(rows), _mandatory(comparison))
        title = f"{comparison.name}: {result.rows[0]['images']} held-out images"
        report.rows[ROWS] += result.rows
        report.protocols[name] = result.protocol
        report.tables[name] = f"{table_of(rows)}\n{line}\n"
        for stratum in STRATA:
            table = table_of(rows, f"_{stratum}")
            report.tables[f"{name}_{stratum}"] = f"{table}\n{line}\n"
        figure = figure_of(rows, title)
        protocol_below(figure, line)
        report.pictures[name] = rendered(figure)
        report.pictures[f"{name}_grid"] = result.grid
    return report


def _names_of(rows: pd.DataFrame) -> set[str]:
    """Each row's decoder, source and captions."""
    return {", ".join(filter(None, case)) for case in rows[list(CASE)].itertuples(index=False)}


def _mandatory(comparison: Comparison) -> list[str]:
    """The rows that every table has, by name: of real images, and what each decoder makes.

    Of a caption's embedding every decoder, of priors and linear priors those that are made for
    them; and the shuffled captions of each.
    """
    predicted = [(name, NO_SUBSET) for name in (LINEAR_PRIOR, CONTRASTIVE_PRIOR)]
    predicted += comparison.priors
    names = [f"{REAL_IMAGES}, {name}" for name in (REAL_AGAINST_REAL, *TRAINING_PICTURES)]
    for kind, decoder in comparison.decoders.items():
        for source, captions in [(TEXT, NO_SUBSET), *(decoder.input_kind != "text") * predicted]:
            names += [f"{kind}, {source}, {captions}"]
            names += [f"{kind}, {source}, {SHUFFLED} captions, {captions}"]
    return names


def chart_entries(report: StudyReport) -> Iterator[dict[str, Any]]:
    """One entry a row for a tracker's charts: its scores by case; the step is the seed."""
    for row in report.rows[ROWS]:
        case = "/".join(row[part] for part in ("comparison", *CASE) if row[part])
        case = case.replace("%", "pc")
        scores = {f"{case}/{metric}": row[metric] for metric in METRICS if metric in row}
        yield {"step": row["seed"], **scores}


def table_of(rows: pd.DataFrame, stratum: str = "") -> str:
    """A row for each decoder and embedding: mean ± half the 95 % interval over seeds.

    "to the image" and "to the text" are cosines of CLIP embeddings, "to training images" is 1 −
    the cosine to the nearest one.

    Args:
        rows: The scores, a row a case and seed.
        stratum: The end of the names of a stratum's scores; of all images "".
    """
    columns = dict(
        column
        for metric in METRICS.items()
        for column in (metric, BIASES.get(metric[0]))
        if column is not None
    )
    scores = {metric: _scores(rows, f"{metric}{stratum}") for metric in columns}
    of_all_images = {
        metric: _scores(rows, metric) if stratum else scores[metric] for metric in columns
    }
    lines = []
    for case, counts in rows.groupby(list(CASE), sort=False)[f"count{stratum}"]:
        count = int(counts.iloc[0])
        too_few = {
            metric: f"too few ({count})" for metric in columns if case in of_all_images[metric]
        }
        cells = [scores[metric].get(case, too_few.get(metric, "–")) for metric in columns]
        lines.append([*map(str, case), *cells, str(count)])
    return markdown([*HEADS, *columns.values(), "images"], lines)


def _scores(rows: pd.DataFrame, name: str) -> dict[Hashable, str]:
    """The cells of a metric, by case; of the cases that have it."""
    summary = over_seeds(rows.reindex(columns=[*CASE, "seed", name]), CASE, name)
    return {
        tuple(case): f"{mean:.4f} ± {half:.4f}" if half > 0 else f"{mean:.4f}"
        for *case, mean, half in summary.itertuples(index=False)
    }


def figure_of(rows: pd.DataFrame, title: str) -> Figure:
    """Means over seeds with 95 % intervals; the dashed line is the real images' score.

    Controls and other real images are in the table alone.
    """
    decoded = rows[(rows["decoder"] != REAL_IMAGES) & ~rows["source"].str.contains(SHUFFLED)]
    real = rows[(rows["decoder"] == REAL_IMAGES) & (rows["source"] == "")]
    decoders, sources = list(decoded["decoder"].unique()), list(decoded["source"].unique())
    subsets = [each for each in decoded["captions"].unique() if each != NO_SUBSET]
    beside = [each for each in (TEXT, LINEAR_PRIOR, CONTRASTIVE_PRIOR) if each in sources]
    ticks = [*beside, *subsets, REAL]
    figure, panels = new_figure(title, -(-len(METRICS) // COLUMNS), COLUMNS)
    for panel, (metric, name) in zip(panels.flat, METRICS.items(), strict=False):
        for (decoder, source), found in decoded.groupby(["decoder", "source"], sort=False):
            summary = over_seeds(found, ["captions"], metric)
            number = decoders.index(decoder) + len(decoders) * sources.index(source)
            offset = OFFSET * (number % 7 - 3)
            positions = [
                _tick(ticks, str(source), str(captions)) + offset
                for captions in summary["captions"]
            ]
            panel.errorbar(
                positions, summary[MEAN], yerr=summary[HALF].fillna(0),
                color=COLOURS[decoders.index(decoder) % len(COLOURS)],
                marker=MARKERS[sources.index(source) % len(MARKERS)], markersize=5, capsize=2,
                linewidth=1, label=f"{decoder}, {source}",
            )  # fmt: skip
        panel.axhline(float(real[metric].mean()), color="grey", linestyle="--", linewidth=1)
        panel.set_title(name, fontsize=10)
        panel.set_xticks(range(len(ticks)), [_tick_label(tick) for tick in ticks], fontsize=8)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=4)
    return figure


def _tick(ticks: Sequence[str], source: str, captions: str) -> int:
    return ticks.index(source if captions == NO_SUBSET else captions)


def _tick_label(tick: str) -> str:
    named = {
        TEXT: "text itself", REAL: "real image", LINEAR_PRIOR: "linear",
        CONTRASTIVE_PRIOR: "contrastive",
    }  # fmt: skip
    return named.get(tick, f"prior, {tick}")
