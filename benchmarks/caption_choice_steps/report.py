"""Tables and a figure of the benchmark's rows: means over seeds with 95 % intervals."""

from __future__ import annotations

import pandas as pd
from PIL import Image

from corgi_core.data.caption_choice import RANDOM, RULES
from corgi_core.experiments.intervals import HALF, MEAN, over_seeds, paired
from corgi_core.experiments.panels import BLACK, BLUE, ORANGE, TITLES, count_axis, line, new_figure
from corgi_core.experiments.report import markdown
from corgi_core.io.pictures import rendered

METRICS = ("cosine", "recall_at_1", "recall_at_5")
COLOURS = dict(zip(RULES, (BLUE, ORANGE, BLACK), strict=True))


def tables_of(rows: pd.DataFrame) -> str:
    """A Markdown table for each prior: the random rule's scores, the others' gains over it.

    Gains are paired by seed: both rules begin with the same images.
    """
    found = []
    for model, of_model in rows.groupby("model", sort=False):
        others = of_model[of_model["rule"] == RANDOM]
        lines = []
        for budget in sorted(of_model["captions"].unique()):
            here = of_model[of_model["captions"] == budget]
            for rule in (RANDOM, *(rule for rule in RULES if rule != RANDOM)):
                mine = here[here["rule"] == rule]
                if rule == RANDOM:
                    cells = [_cell(over_seeds(mine, ["captions"], metric)) for metric in METRICS]
                else:
                    cells = [
                        _cell(paired(mine, others, ["captions"], metric), signed=True)
                        for metric in METRICS
                    ]
                lines.append([f"{budget}", rule, *cells])
        heads = [f"captions, {model}", "rule", "cosine", "recall@1", "recall@5"]
        found.append(markdown(heads, lines))
    return "\n".join(found)


def figure_of(rows: pd.DataFrame) -> Image.Image:
    """A row of panels for each prior, a panel for each score, by the number of captions."""
    models = list(dict.fromkeys(rows["model"]))
    figure, panels = new_figure("Which images to caption", len(models), len(METRICS))
    for model, of_model in zip(models, panels, strict=True):
        for metric, panel in zip(METRICS, of_model, strict=True):
            for rule in RULES:
                some = rows[(rows["model"] == model) & (rows["rule"] == rule)]
                line(panel, some, "captions", metric, rule, COLOURS[rule])
            count_axis(panel, sorted(rows["captions"].unique()), "captions")
            panel.set_title(f"{model}: {TITLES[metric]}", fontsize=9)
    panels[0][0].legend(frameon=False, fontsize=8)
    return rendered(figure)


def _cell(summary: pd.DataFrame, *, signed: bool = False) -> str:
    mean, half = summary.iloc[0][MEAN], summary.iloc[0][HALF]
    return f"{mean:{'+' if signed else ''}.4f} ± {half:.4f}"
