"""Made pairs of captions and image embeddings, for drills: small, and a function of their words.

An image is a thing of a colour in a style. Its embedding is the sum of one direction for each, and
of noise, around an axis, as CLIP's embeddings lie within a cone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "pink", "orange")
THINGS = ("apple", "car", "house", "tree", "dog", "boat", "chair", "hat")
STYLES = ("photo", "sketch", "mosaic")
WIDTHS = {"made_a": 24, "made_b": 32}  # of the encoders
AXIS, NOISE = 2.0, 0.4  # lengths beside directions of length 1


def write_pairs(path: Path, style: str, count: int, name: str) -> None:
    """Write pairs as a Parquet table that `corgi ingest --format embeddings` reads.

    Args:
        path: The file.
        style: One of `STYLES`.
        count: How many pairs.
        name: Begins the keys; other names, other images.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng([STYLES.index(style), *name.encode()])
    colours, things = random.integers(len(COLOURS), size=(2, count))
    captions = [
        [f"a {style} of a {COLOURS[colour]} {THINGS[thing]}"]
        for colour, thing in zip(colours.tolist(), things.tolist(), strict=True)
    ]
    columns = {"key": pa.array([f"{name}{n:05d}" for n in range(count)]), "captions": captions}
    for number, (encoder, width) in enumerate(WIDTHS.items()):
        z = embeddings(style, colours, things, number, width)
        z += NOISE * random.standard_normal(z.shape)
        columns[encoder] = pa.array(z.astype(np.float32).tolist(), pa.list_(pa.float32()))
    pq.write_table(pa.table(columns), path)


def embeddings(
    style: str, colours: Sequence[int], things: Sequence[int], encoder: int, width: int
) -> np.ndarray:
    """The embeddings [n, width] without their noise."""
    words = (1, len(STYLES), len(COLOURS), len(THINGS))
    basis = np.random.default_rng(encoder).standard_normal((sum(words), width))
    axis, styles, of_colours, of_things = np.split(basis, np.cumsum(words)[:-1])
    z: np.ndarray = AXIS * axis + styles[STYLES.index(style)] + of_colours[colours]
    return z + of_things[things]
