"""Made pairs are what their captions say, and are read as people's own embeddings are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corgi_core.data.formats.embeddings import read
from corgi_core.data.shards import Sample
from corgi_core.data.vectors import read_vector
from corgi_core.experiments.made_pairs import (
    COLOURS,
    NOISE,
    THINGS,
    WIDTHS,
    embeddings,
    write_pairs,
)


def test_each_image_is_its_words_and_noise(tmp_path: Path) -> None:
    path = tmp_path / "made.parquet"
    write_pairs(path, "sketch", 40, "week")
    samples = [each for each in read(path) if isinstance(each, Sample)]
    assert len({each.key for each in samples}) == 40
    apart = []
    for each in samples:
        (caption,) = each.captions or [""]
        _, style, _, _, colour, thing = caption.split()
        assert style == "sketch"
        at = [COLOURS.index(colour)], [THINGS.index(thing)]
        space, found = read_vector(each.image)
        assert dict(zip(space.names, space.encoder_dims, strict=True)) == WIDTHS
        expected = [
            embeddings("sketch", *at, number, width)[0]
            for number, width in enumerate(WIDTHS.values())
        ]
        apart.append(found - np.concatenate(expected))
    assert np.concatenate(apart).std() == pytest.approx(NOISE, rel=0.1)
    photo, sketch = (embeddings(style, *at, 0, 24) for style in ("photo", "sketch"))
    other = embeddings("sketch", [0], [0], 0, 24) - embeddings("photo", [0], [0], 0, 24)
    np.testing.assert_allclose(sketch - photo, other)  # a style is one direction
