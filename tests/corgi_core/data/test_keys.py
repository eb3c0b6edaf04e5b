"""Sets of images that are asked for a shard at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from corgi_core.data.dataset import write_dataset
from corgi_core.data.keys import ListedKeys, SplitKeys, validation_keys
from tests.helpers.made import sample


def test_a_split_is_found_shard_by_shard_and_reads_no_other(tmp_path: Path) -> None:
    about = [("train", "a"), ("test", "a"), ("train", "b"), ("train", "a"), ("test", "b")]
    images = write_dataset(
        tmp_path / "images",
        [sample(f"{n}", split=split, source=source) for n, (split, source) in enumerate(about)],
        shard_size=3,
    )
    (tmp_path / "images" / "manifest" / "00001.parquet").unlink()
    keys = np.array(["2", "0", "1", "0"])  # in any order, several times
    assert SplitKeys(images, "train").among("00000", keys).tolist() == [True, True, False, True]
    assert SplitKeys(images, "test").among("00000", keys).tolist() == [False, False, True, False]
    of_a = SplitKeys(images, "train", "a")
    assert of_a.among("00000", keys).tolist() == [False, True, False, True]
    assert (
        len({SplitKeys(images, "train").digest, SplitKeys(images, "test").digest, of_a.digest}) == 3
    )


def test_validation_images_with_near_twins_do_not_count(tmp_path: Path) -> None:
    splits = ["validation", "train", "validation", "test", "validation"]
    made = [sample(f"{n}", split=split) for n, split in enumerate(splits)]
    images = write_dataset(tmp_path / "images", made, shard_size=5)
    keys = np.array(["0", "1", "2", "3", "4"])
    found = validation_keys(images, {"2", "3"})
    assert found.among("00000", keys).tolist() == [True, False, False, False, True]
    whole = validation_keys(images, ())
    assert whole.among("00000", keys).sum() == 3
    assert whole.digest == SplitKeys(images, "validation").digest
    assert len({whole.digest, found.digest, validation_keys(images, {"2"}).digest}) == 3


def test_listed_keys_are_named_by_their_content() -> None:
    listed = ListedKeys(("b", "a"))
    assert listed.among("00000", np.array(["a", "c", "b"])).tolist() == [True, False, True]
    assert listed.digest == ListedKeys(("a", "b")).digest != ListedKeys(("a",)).digest
    assert not ListedKeys(()).among("00000", np.array(["a"])).any()
