"""Votes between models as bars of better, same and worse, one figure a survey."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi_core.experiments.panels import BLUE, ORANGE
from corgi_core.metrics.ratings.win_rates import RATES
from corgi_core.rating.results import RatingResults
from corgi_core.rating.votes import ASPECTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {1: BLUE, 0: "#BBBBBB", -1: ORANGE}
LABELS = {1: "better", 0: "same", -1: "worse"}


def figure_of(results: RatingResults, title: str) -> Figure:
    """Shares of votes for each two models by aspect, as in figure 6 of Zhou et al. (2023).

    Args:
        results: Of a survey's votes.
        title: Of the figure.

    Returns:
        A figure with a panel for each aspect. The whisker is Wilson's interval of "better".
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.3 + 0.5 * len(results.pairs)), layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    panels = figure.subplots(1, len(ASPECTS), sharey=True)
    for panel, aspect in zip(panels, ASPECTS, strict=True):
        for y, pair in enumerate(results.pairs):
            left = 0.0
            for outcome, metric in RATES.items():
                row = results.row(aspect, metric, *pair)
                label = LABELS[outcome] if y == 0 else None
                panel.barh(y, row.value, left=left, color=COLOURS[outcome], label=label)
                if row.low is not None and row.high is not None and outcome == 1:
                    panel.plot([row.low, row.high], [y, y], color="black", linewidth=1.2)
                left += row.value
        panel.set_title(aspect, fontsize=10)
        panel.set_xlim(0, 1)
        panel.set_yticks(range(len(results.pairs)), [f"{a} than {b}" for a, b in results.pairs])
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
