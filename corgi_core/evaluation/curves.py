"""Held-out cosine against the number of sampling steps, one line a prior."""

from __future__ import annotations

from typing import Any

from PIL import Image

from corgi_core.io.pictures import drawn


def cosine_curves(metrics: dict[str, Any]) -> Image.Image:
    """A panel for each caption subset; the CLIP text embedding's own cosine as a dashed line."""
    from matplotlib.figure import Figure

    priors = metrics["priors"]
    subsets = list(dict.fromkeys(subset for by_subset in priors.values() for subset in by_subset))
    figure = Figure(figsize=(4 * len(subsets), 3.4), layout="constrained")
    panels = figure.subplots(1, len(subsets), sharey=True, squeeze=False)[0]
    for panel, subset in zip(panels, subsets, strict=True):
        for variant, by_subset in priors.items():
            if subset in by_subset:
                steps = sorted(by_subset[subset], key=int)
                cosines = [by_subset[subset][s]["cosine"] for s in steps]
                panel.plot([int(s) for s in steps], cosines, marker="o", label=variant)
        panel.axhline(
            metrics["text_embedding"]["cosine"], color="grey", linestyle="--", label="text"
        )
        panel.set_xscale("log", base=2)
        panel.set_title(f"{subset} of the captions")
        panel.set_xlabel("sampling steps")
    panels[0].set_ylabel("held-out cosine")
    panels[-1].legend(fontsize="small")
    return drawn(figure)
