"""What images cost on the disk, as stores really have it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from corgi_core.config import PixelSource, preset_named
from corgi_core.data.dataset import write_dataset
from corgi_core.data.image_index import PIXEL_JOBS
from corgi_core.sizes import pixel_storage
from tests.helpers.made import sample

EMOJI = preset_named("emoji")


@pytest.mark.parametrize("source", ["stored", "online"])
def test_of_a_dataset_it_is_what_its_images_need(tmp_path: Path, source: PixelSource) -> None:
    images = write_dataset(
        tmp_path / "images", [sample(f"{n:09d}") for n in range(200)], shard_size=200
    )
    found = pixel_storage(replace(EMOJI, pixels=source), images)
    assert found is not None
    assert found.images == 200
    store = PIXEL_JOBS[source](images, EMOJI.image_size).run(tmp_path / source, "cpu", threads=1)
    size = (store.folder / "00000.safetensors").stat().st_size
    assert size == pytest.approx(200 * found.each, rel=0.03, abs=400)


def test_the_papers_pixels_are_decoded_and_not_stored() -> None:
    paper = pixel_storage(preset_named("paper"))
    assert paper is not None
    assert (paper.source, paper.each, paper.stored) == ("online", 61, 3 * 1024**2)
    assert pixel_storage(preset_named("embeddings")) is None
