"""Captions that arrive change the dataset's version, and not those of what knows no caption."""

from __future__ import annotations

from pathlib import Path

import pytest
from upath import UPath

from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.image_splits import ImageSplits
from corgi_core.data.pixels import pixels
from corgi_core.data.shards import Sample
from corgi_core.errors import CorgiError
from tests.helpers.tiny_pipeline import png


def dataset(folder: Path, *, captions: list[str] | None, split: str = "train") -> Dataset:
    """Four images in two shards, the last of them of another split."""
    splits = ["train", "train", "train", split]
    samples = [
        Sample(f"key{n}", png(n), captions, splits[n], "made", f"key{n}") for n in range(4)
    ]  # fmt: skip
    return write_dataset(folder, samples, shard_size=2)


def test_captions_leave_splits_and_pixels_as_they_were(tmp_path: Path) -> None:
    before = dataset(tmp_path / "a", captions=None)
    after = dataset(tmp_path / "b", captions=["a cat"])
    assert before.digest != after.digest
    assert ImageSplits.of(before).digest == ImageSplits.of(after).digest
    stores = [pixels(each, UPath(tmp_path / f"{n}"), 8) for n, each in enumerate((before, after))]
    assert stores[0].digest == stores[1].digest


def test_another_split_and_another_image_change_them(tmp_path: Path) -> None:
    digests = {
        ImageSplits.of(dataset(tmp_path / "a", captions=None)).digest,
        ImageSplits.of(dataset(tmp_path / "b", captions=None, split="test")).digest,
        ImageSplits.of(
            write_dataset(tmp_path / "c", [Sample("key0", png(9), None, "train", "made", "0")], 2)
        ).digest,
    }
    assert len(digests) == 3


def test_they_are_stored_and_found_missing(tmp_path: Path) -> None:
    splits = ImageSplits.of(dataset(tmp_path / "a", captions=None))
    splits.save(tmp_path / "splits")
    assert ImageSplits.load(tmp_path / "splits") == splits
    with pytest.raises(CorgiError, match="no image splits"):
        ImageSplits.load(tmp_path / "nowhere")
