"""Pictures on Dagster's pages: inline, and small enough for an event log."""

import base64
import io
import re
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from upath import UPath

from assets.pictures import EVENT, near_twins, picture, pictures, thumbnails
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.shards import Sample
from corgi_core.evaluation.split_overlap import SplitOverlap
from tests.helpers.small import PNGS, write_images


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def opened(inline: object) -> Image.Image:
    assert isinstance(inline, dg.MarkdownMetadataValue)
    found = re.fullmatch(r"!\[picture\]\(data:image/(png|webp);base64,(.+)\)", inline.value or "")
    assert found
    image = Image.open(io.BytesIO(base64.b64decode(found[2])))
    assert image.format == found[1].upper()
    return image


def test_a_small_picture_is_inline_as_it_is() -> None:
    image = noise(30, 20)
    assert np.array_equal(np.asarray(opened(picture(image))), np.asarray(image))


@pytest.mark.parametrize("size", [(400, 300), (300, 20_000)])
def test_a_large_picture_is_scaled_down_and_left_as_it_is_itself(size: tuple[int, int]) -> None:
    image = noise(*size)
    inline = picture(image, limit=8000)
    assert len(inline.value or "") < 8000 * 4 / 3 + 100
    small = opened(inline)
    assert small.width / small.height == pytest.approx(size[0] / size[1], rel=0.2)
    assert image.size == size


def test_the_pictures_of_an_event_are_small_together(tmp_path: Path) -> None:
    images = {name: noise(200, 150) for name in "abcdefghij"}
    inline = pictures(images, tmp_path)
    assert list(inline) == [*images, "files"]
    assert inline["files"] == dg.MetadataValue.path(tmp_path)
    size = sum(len(str(each.value)) for each in inline.values())
    assert EVENT / 2 < size < 1.5 * EVENT


def test_thumbnails_are_the_first_images(tmp_path: Path) -> None:
    images = write_images(UPath(tmp_path), list("abcdef"), ["train"] * len(PNGS))
    assert opened(thumbnails(images)).size == (6 * 70 + 6, 64 + 12)


def test_no_images_are_read_but_those_of_the_shards_that_near_twins_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [
        Sample(f"key{n}", image, ["a"], "test" if n == 2 else "train", "test", f"{n}", "png")
        for n, image in enumerate(PNGS)
    ]
    images, files, read = write_dataset(UPath(tmp_path), made, 1), Dataset.images, list[str]()
    monkeypatch.setattr(
        Dataset, "images", lambda self, shard: read.append(shard) or files(self, shard)
    )
    row = {"key": "key2", "split": "test", "bits": 0, "hash_key": "key4", "nearest_key": None}
    overlap = SplitOverlap({"test": 1, "validation": 0}, pd.DataFrame([row]))
    assert near_twins(images, overlap) is not None
    assert read == [images.shards[2], images.shards[4]]
