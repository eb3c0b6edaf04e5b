"""The speedrun's judge knows good pictures from bad ones, and a run starts from nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.speedrun import main, validation_images, verdict_of
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.errors import CorgiError
from tests.helpers.made import sample


def test_a_verdict_falls_with_the_pictures() -> None:
    random = torch.Generator().manual_seed(0)
    real, noise = torch.randn((2, 200, 16), generator=random)
    same = verdict_of(real, real, (16,))
    assert same.recall == pytest.approx(1)
    assert same.frechet == pytest.approx(0, abs=1e-6)
    assert same.is_reached
    near, far = verdict_of(real + noise, real, (16,)), verdict_of(noise + 3, real, (16,))
    assert same.recall > near.recall > far.recall
    assert same.frechet < near.frechet < far.frechet
    assert same.similarity > near.similarity > far.similarity
    assert not far.is_reached


def test_first_captions_stand_beside_their_own_images(tmp_path: Path) -> None:
    splits = {"a": "validation", "b": "train", "c": "validation", "d": "validation"}
    made = [
        sample(key, captions=[f"{key} first", "second"], split=own) for key, own in splits.items()
    ]
    made[-1] = sample("d", captions=None, split="validation")
    write_dataset(tmp_path / "images", made, shard_size=2)
    images = Dataset.load(tmp_path / "images")
    captions, files = validation_images(images)
    stored = {key: file for shard in images.shards for key, file in images.images(shard)}
    assert captions == ["a first", "c first"]
    assert files == [stored["a"], stored["c"]]


def test_a_run_in_a_used_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with pytest.raises(CorgiError, match="is not empty"):
        main(["--home", str(tmp_path), "--judge", str(tmp_path)])
