"""The comparison in Markdown: one table a contest, means over the sampling's seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi_core.experiments.intervals import HALF, MEAN, over_seeds
from corgi_core.experiments.report import markdown

if TYPE_CHECKING:
    import pandas as pd

METRICS = {
    "frechet_distance_clip": "Fréchet ↓",
    "clip_similarity_image": "to the image ↑",
    "clip_similarity_text": "to the text ↑",
    "precision": "precision ↑",
    "recall": "recall ↑",
    "nearest_distance": "to training images",
}
CASE = ["decoder", "source", "captions"]
HEADS = ["decoder", "embedding", "captions"]


def table_of(rows: pd.DataFrame) -> str:
    """A row a decoder and embedding: mean ± half the 95 % interval, without it where it is 0.

    "to the image", "to the text": cosines of CLIP embeddings. "to training images": 1 − cosine of
    the nearest one.
    """
    lines = []
    for case, found in rows.groupby(CASE, sort=False):
        cells = [_cell(over_seeds(found, ["decoder"], metric)) for metric in METRICS]
        lines.append([*map(str, case), *cells])
    return markdown([*HEADS, *METRICS.values()], lines)


def _cell(summary: pd.DataFrame) -> str:
    mean, half = summary[MEAN].item(), summary[HALF].item()
    return f"{mean:.4f} ± {half:.4f}" if half > 0 else f"{mean:.4f}"
