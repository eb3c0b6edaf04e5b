"""The comparison as a picture: a panel a metric, captions along it, a colour a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi_core.experiments.decoder_comparison.measure import PICTURES, REAL, TEXT
from corgi_core.experiments.decoder_comparison.tables import METRICS
from corgi_core.experiments.intervals import HALF, MEAN, over_seeds
from corgi_core.experiments.panels import COLOURS, MARKERS, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = 3
APART = 0.09  # of two points at one place


def figure_of(rows: pd.DataFrame, title: str) -> Figure:
    """Means over seeds with 95 % intervals, by where the embedding comes from.

    The dashed line is what the real pictures reach.
    """
    drawn, real = rows[rows["decoder"] != PICTURES], rows[rows["decoder"] == PICTURES]
    decoders = list(drawn["decoder"].unique())
    sources = list(drawn["source"].unique())
    learned = [s for s in drawn["captions"].unique() if s != "none"]
    places = [*((TEXT,) if TEXT in sources else ()), *learned, REAL]
    figure, panels = new_figure(title, -(-len(METRICS) // COLUMNS), COLUMNS)
    for panel, (metric, name) in zip(panels.flat, METRICS.items(), strict=False):
        for (decoder, source), found in drawn.groupby(["decoder", "source"], sort=False):
            summary = over_seeds(found, ["captions"], metric)
            number = decoders.index(decoder) + len(decoders) * sources.index(source)
            shift = APART * (number % 7 - 3)
            at = [
                _place(places, str(source), str(captions)) + shift
                for captions in summary["captions"]
            ]
            panel.errorbar(
                at, summary[MEAN], yerr=summary[HALF].fillna(0),
                color=COLOURS[decoders.index(decoder) % len(COLOURS)],
                marker=MARKERS[sources.index(source) % len(MARKERS)], markersize=5, capsize=2,
                linewidth=1, label=f"{decoder}, {source}",
            )  # fmt: skip
        panel.axhline(float(real[metric].mean()), color="grey", linestyle="--", linewidth=1)
        panel.set_title(name, fontsize=10)
        panel.set_xticks(range(len(places)), [_said(place) for place in places], fontsize=8)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=4)
    return figure


def _place(places: list[str], source: str, captions: str) -> int:
    return places.index(source if captions == "none" else captions)


def _said(place: str) -> str:
    return {TEXT: "text itself", REAL: "real image"}.get(place, f"prior, {place}")
