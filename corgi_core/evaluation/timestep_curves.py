"""How near priors' predictions come to the true embeddings on the way from noise to the sample."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

from PIL import Image

from corgi_core.evaluation.plain_scores import BY_TIMESTEP
from corgi_core.evaluation.protocol import Protocol
from corgi_core.io.pictures import rendered
from corgi_core.metrics.bootstrap import CI_HIGH, CI_LOW


def timestep_curves(metrics: Mapping[str, Any]) -> Image.Image:
    """A panel for each caption subset: the cosine by timestep at the most steps, with intervals.

    The paper's Figure 12 is of this. The protocol's line is below.
    """
    from matplotlib.figure import Figure

    priors = metrics["priors"]
    subsets = list(dict.fromkeys(subset for by_subset in priors.values() for subset in by_subset))
    figure = Figure(figsize=(4 * len(subsets), 3.4), layout="constrained")
    panels = figure.subplots(1, len(subsets), sharey=True, squeeze=False)[0]
    for panel, subset in zip(panels, subsets, strict=True):
        for variant in (name for name, by_subset in priors.items() if subset in by_subset):
            along = priors[variant][subset][max(priors[variant][subset], key=int)][BY_TIMESTEP]
            timesteps = [int(t) for t in along]
            low, mean, high = (
                [each[f"cosine{end}"] for each in along.values()] for end in (CI_LOW, "", CI_HIGH)
            )
            panel.plot(timesteps, mean, label=variant, marker="." if len(mean) < 3 else None)
            panel.fill_between(timesteps, low, high, alpha=0.2, linewidth=0)
        panel.set_title(f"{subset} of the captions")
        panel.set_xlabel("timestep, from noise to the sample")
        panel.invert_xaxis()
    panels[0].set_ylabel("cosine of the prediction")
    figure.supxlabel("\n".join(wrap(Protocol.stored_in(metrics).line, 70 * len(subsets))), size=6)
    panels[-1].legend(fontsize="small")
    return rendered(figure)
