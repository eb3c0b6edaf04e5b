"""The paper's figures (arXiv 2211.15388) in a workspace's own numbers, as a part of its page.

The tables of pictures stand for the paper's Tables 1 and 2. Its figures ask four things more, and
each is answered from the report that has the numbers: people's votes (Figure 6), few or many
sampling steps and distance against CLIP score (Figures 10 and 11), the prediction at every timestep
(Figure 12), one Gaussian or many (Figure 13). What a workspace has not measured is named, with the
command that measures it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from PIL import Image

from corgi_core.evaluation.charts import Dot, Point, by_timestep, dots
from corgi_core.evaluation.plain_scores import BY_TIMESTEP
from corgi_core.evaluation.score_rows import Kind, ScoreRow
from corgi_core.io.html_pages import Cell, paragraph, picture, table, webp
from corgi_core.metrics.ratings.win_rates import RATES

PLOT = 1400  # pixels of the longer side of a plot of the study's
AGAIN = (
    "Where a command is named instead of numbers, run it, and then `dagster asset materialize -m "
    "orchestration.definitions --select evaluation`, which writes this page anew, mostly from what "
    "is stored."
)
NO_VOTES = (
    "No votes yet: `corgi suite PROMPTS` makes pictures, `corgi rate FOLDER` asks people, and the "
    "asset `human_ratings` counts their votes."
)
NO_STUDY = "The plot of the study is not there yet: `corgi study`."
NO_GUIDANCES = "The curve over guidance: `corgi run --set evaluation.guidances=[1,2,4]`."
ABOUT = (
    "What the figures of the paper show, and the same question asked of this workspace's models. "
    "They are other models, on other data: the direction can be compared, the height cannot."
)
FIGURE_6 = (
    "In the paper: of two models' pictures of one prompt, the shares of people's votes for either, "
    "for alignment with the text and for fidelity. Here: votes cast on the page of `corgi rate`. A "
    "dot is the share that found the first model better, with Wilson's 95 % interval; a vote for "
    '"the same" is a vote for neither. Where the intervals of better and worse, in the table, do '
    "not overlap, people prefer one of the two."
)
FIGURES_10_11 = (
    "In the paper: shifted and baseline diffusion by the number of sampling steps, and distance "
    "from the real images against nearness to the caption. Here: the curves under By sampling "
    "steps are those of the test images, with intervals over captions, and those under By the "
    "decoder's guidance set the Fréchet distance against the CLIP score."
)
FIGURE_12 = (
    "In the paper: the cosine of the prediction to the true image embedding at every timestep. "
    "Here: the cosine of ẑ₀ to z₀ on the way from noise (left) to the sample, of test captions. "
    "The study's plot has it of validation captions with several seeds, and beside it the cosine "
    "of z_T, where sampling starts."
)
FIGURE_13 = (
    "In the paper: how many Gaussians, fixed or learned. Here: quality on validation captions by "
    "the number k of Gaussians, fitted or learned, and by the width κ of their deviations."
)
OF_SEEDS = "Means over the study's seeds, with 95 % intervals."


@dataclass(frozen=True)
class Beside:
    """What other reports of the same workspace say; empty where a report has not been made.

    Attributes:
        votes: By prompt suite the rows of `corgi_core.rating.results`, as dictionaries.
        plots: The study's, by name.
        versions: The digests of the reports by name, for the page's provenance.
    """

    votes: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    plots: Mapping[str, Image.Image] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def paper_figures(metrics: Mapping[str, Any], beside: Beside) -> str:
    """Figures 6, 10 to 13 of the paper: what each shows, and ours or how to measure it.

    Args:
        metrics: Those of an `Evaluation`.
        beside: The workspace's other reports.

    Returns:
        HTML below a heading of the page.
    """
    along = _timesteps(metrics["priors"])
    varied = "pictures" not in metrics or metrics.get("guidances")
    guided = "" if varied else paragraph(NO_GUIDANCES)
    return "".join([
        paragraph(ABOUT), paragraph(AGAIN),
        _heading("Figure 6: what people prefer", FIGURE_6), _votes(beside.votes),
        _heading("Figures 10 and 11: sampling steps, and distance against CLIP score",
                 FIGURES_10_11),
        guided, _plots(beside.plots, ("steps",)),
        _heading("Figure 12: the prediction at every timestep", FIGURE_12),
        along, _plots(beside.plots, ("timesteps",)),
        _heading("Figure 13: one Gaussian or many", FIGURE_13),
        _plots(beside.plots, ("gaussians", "kappa")),
    ])  # fmt: skip


def _heading(title: str, text: str) -> str:
    return f"<h3>{escape(title)}</h3>\n{paragraph(text)}"


def _plots(plots: Mapping[str, Image.Image], names: Sequence[str]) -> str:
    """The study's plots of these names, or how to make them."""
    images = [picture(webp(plots[name], PLOT), name) for name in names if name in plots]
    if not images:
        return paragraph(NO_STUDY)
    return f'<div class="plots">{"".join(images)}</div>\n{paragraph(OF_SEEDS)}'


def _timesteps(priors: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """For each caption subset the cosine of the predictions of a sampling of most steps."""
    by_subset: dict[str, dict[str, dict[int, Point]]] = {}
    for variant, subsets in priors.items():
        for subset, by_steps in subsets.items():
            for t, scores in by_steps[max(by_steps, key=int)].get(BY_TIMESTEP, {}).items():
                point = ScoreRow(variant, Kind.PRIOR, scores).point("cosine")
                if point is not None:
                    of_subset = by_subset.setdefault(subset, {})
                    of_subset.setdefault(variant, {})[int(t)] = Point(*point)
    charts = [
        by_timestep(f"ẑ₀, trained with {subset} of the captions", series, "cosine of ẑ₀ to z₀")
        for subset, series in by_subset.items()
    ]
    return f'<div class="charts">{"".join(charts)}</div>\n'


def _votes(votes: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A chart of the win rates for each suite and question, and a table of all rates."""
    if not votes:
        return paragraph(NO_VOTES)
    charts, cells = [], []
    for suite, rows in votes.items():
        of_pairs = [row for row in rows if row["other"]]
        for aspect in dict.fromkeys(row["aspect"] for row in of_pairs):
            rates = {
                (row["model"], row["other"], row["metric"]): row
                for row in of_pairs
                if row["aspect"] == aspect
            }
            pairs = list(dict.fromkeys((model, other) for model, other, _ in rates))
            won = {pair: rates[*pair, RATES[1]] for pair in pairs}
            known = [Dot(f"{a} better than {b}", _point(row), False) for (a, b), row in won.items()]
            charts.append(dots(f"{suite}: {aspect}", known))
            cells += [
                [Cell(suite, suite), Cell(aspect, aspect), Cell(a, a), Cell(b, b),
                 *(_rate(rates[a, b, metric]) for metric in RATES.values()),
                 Cell(f"{row['votes']:,}", row["votes"])]
                for (a, b), row in won.items()
            ]  # fmt: skip
    heads = ["suite", "question", "model", "other model", "better", "same", "worse", "votes"]
    return f'<div class="charts">{"".join(charts)}</div>\n{table(heads, cells)}'


def _point(row: Mapping[str, Any]) -> Point:
    return Point(row["value"], row["low"], row["high"])


def _rate(row: Mapping[str, Any]) -> Cell:
    share, low, high = _point(row)
    return Cell(f"{share:.1%}", share, f"{low:.1%} – {high:.1%}")
