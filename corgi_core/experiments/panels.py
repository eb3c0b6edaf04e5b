"""How the experiments' figures look: lines with bands, colours, labels, axes."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from corgi_core.experiments.intervals import HALF, MEAN, mean_and_half_width, over_seeds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): colour-blind people can tell them apart. Black is the baseline's.
BLACK, BLUE, ORANGE, GREEN, PURPLE, SKY, RED = (
    "#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
)  # fmt: skip
COLOURS = (BLACK, BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
MARKERS = "osD^vPX"

TITLES = {
    "cosine": "cosine to the true embedding",
    "shuffled_cosine": "cosine to another caption's",
    "recall_at_1": "recall@1",
    "recall_at_5": "recall@5",
    "frechet": "Fréchet distance (less is better)",
    "spread": "spread (1 is calibrated, 0 one answer)",
    "held_out_cosine": "held-out cosine",
}


def new_figure(title: str, rows: int, columns: int, **shared: Any) -> tuple[Figure, Any]:
    """A figure with a title, and its panels [rows, columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.1 * columns, 3.0 * rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    panels = figure.subplots(rows, columns, squeeze=False, **shared)
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25, linewidth=0.6)
    return figure, panels


def protocol_below(figure: Figure, text: str) -> None:
    """Write under what protocol a figure's numbers were measured below it."""
    width = int(figure.get_size_inches()[0] * 22)
    figure.supxlabel("\n".join(wrap(text, width)), fontsize=6)


def line(
    panel: Axes, rows: pd.DataFrame, x: str, metric: str, label: str, colour: str, **style: Any
) -> None:
    """Means over seeds along `x`, with their 95 % intervals as a band."""
    summary = over_seeds(rows, [x], metric).sort_values(x)
    xs, means, halves = (summary[name].to_numpy() for name in (x, MEAN, HALF))
    look: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.6, **style}
    panel.plot(xs, means, color=colour, label=label, **look)
    panel.fill_between(xs, means - halves, means + halves, color=colour, alpha=0.15, linewidth=0)


def point(
    panel: Axes, rows: pd.DataFrame, x: str, metric: str, label: str, colour: str, marker: str
) -> None:
    """One arm's mean with its 95 % interval as an error bar."""
    ((at, mean, half),) = over_seeds(rows, [x], metric).itertuples(index=False)
    panel.errorbar(
        [at], [mean], yerr=[half], color=colour, marker=marker, markersize=7, capsize=3,
        linestyle="none", label=label,
    )  # fmt: skip


def front(
    panel: Axes,
    groups: Sequence[pd.DataFrame],
    x: str,
    y: str,
    names: Sequence[str],
    label: str,
    colour: str,
    marker: str,
) -> None:
    """Groups of rows, a point each with the 95 % intervals over seeds of both metrics, joined."""
    pairs = [[mean_and_half_width(rows[metric].tolist()) for metric in (x, y)] for rows in groups]
    (xs, x_halves), (ys, y_halves) = (zip(*each, strict=True) for each in zip(*pairs, strict=True))
    panel.errorbar(
        xs, ys, xerr=x_halves, yerr=y_halves, color=colour, marker=marker, markersize=5,
        linewidth=1.2, elinewidth=0.6, label=label,
    )  # fmt: skip
    for name, at in zip(names, zip(xs, ys, strict=True), strict=True):
        panel.annotate(
            name, at, xytext=(4, 4), textcoords="offset points", fontsize=7, color=colour
        )


def label_lines(panel: Axes) -> None:
    """Write every line's label at its last point, apart from each other; no legend needed."""
    import numpy as np

    lines = [line for line in panel.get_lines() if not str(line.get_label()).startswith("_")]
    ends = [float(np.asarray(line.get_ydata())[-1]) for line in lines]
    low, high = panel.get_ylim()
    height = low
    for end, line in sorted(zip(ends, lines, strict=True), key=lambda pair: pair[0]):
        height = max(end, height)
        panel.annotate(
            str(line.get_label()), (1.02, height), xycoords=("axes fraction", "data"),
            color=line.get_color(), fontsize=8, va="center", annotation_clip=False,
        )  # fmt: skip
        height += 0.075 * (high - low)


def count_axis(panel: Axes, ticks: Sequence[float], label: str) -> None:
    """A doubling axis with whole numbers at `ticks`."""
    panel.set_xscale("log", base=2)
    panel.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    panel.set_xlabel(label)
