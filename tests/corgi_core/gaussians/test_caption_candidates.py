"""The images without a caption, and how near each is to those that have one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.caption_choice import RANDOM, choose
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.keys import TrainingKeys
from corgi_core.data.shards import Sample
from corgi_core.gaussians.caption_candidates import candidates_of

DIMS = (4, 6)
COUNT = 60


def made(folder: Path, captions: bool = True) -> tuple[Dataset, ArrayStore, np.ndarray]:
    """60 images in shards of 25: every third has a caption, every fifth is held out."""
    random = np.random.default_rng(0)
    z = random.normal(size=(COUNT, sum(DIMS))).astype(np.float32)
    samples = [
        Sample(
            f"{n:02}", b"", ["a caption"] if captions and n % 3 == 0 else None,
            "test" if n % 5 == 0 else "train", "made", str(n),
        )
        for n in range(COUNT)
    ]  # fmt: skip
    dataset = write_dataset(folder / "images", samples, shard_size=25)

    def embedded(shard: str) -> dict[str, np.ndarray]:
        keys = dataset.rows(shard, "key")["key"].to_numpy(dtype=str)
        return {"keys": keys, "image": z[keys.astype(int)]}

    spec = {"encoder": "made", "encoder_dims": list(DIMS)}
    return dataset, compute_missing(folder / "image", dataset, spec, embedded, "images"), z


def mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Encoder by encoder, from the definition."""
    parts = (slice(0, DIMS[0]), slice(DIMS[0], None))
    each = [a[p] @ b[p] / np.linalg.norm(a[p]) / np.linalg.norm(b[p]) for p in parts]
    return float(np.mean(each))


def test_each_knows_its_nearest_image_with_a_caption(tmp_path: Path) -> None:
    dataset, store, z = made(tmp_path)
    found = candidates_of(dataset, store, seed=0)
    training = [n for n in range(COUNT) if n % 5]
    without, having = ([n for n in training if bool(n % 3) == none] for none in (True, False))
    assert found.keys.tolist() == [f"{n:02}" for n in without]
    expected = [max(mean_cosine(z[n], z[m]) for m in having) for n in without]
    assert found.captioned == pytest.approx(expected, abs=1e-5)
    a, b = found.directions[:2]
    assert a @ b == pytest.approx(mean_cosine(z[without[0]], z[without[1]]), abs=1e-6)


def test_of_many_a_sample_is_considered_whatever_the_shards(tmp_path: Path) -> None:
    dataset, store, _ = made(tmp_path)
    some, other = (candidates_of(dataset, store, seed, most=9) for seed in (0, 1))
    assert len(some) == len(other) == 9
    assert some.keys.tolist() != other.keys.tolist()


def test_without_any_caption_nothing_is_near(tmp_path: Path) -> None:
    dataset, store, _ = made(tmp_path, captions=False)
    found = candidates_of(dataset, store, seed=0)
    assert set(found.captioned.tolist()) == {-1.0}
    assert TrainingKeys(dataset, captioned=True).count == 0


def test_where_all_have_captions_there_are_none(tmp_path: Path) -> None:
    samples = [Sample(f"{n}", b"", ["one"], "train", "made", str(n)) for n in range(3)]
    dataset = write_dataset(tmp_path / "images", samples, shard_size=3)

    def embedded(shard: str) -> dict[str, np.ndarray]:
        return {"keys": np.array(["0", "1", "2"]), "image": np.ones((3, sum(DIMS)), np.float32)}

    store = compute_missing(
        tmp_path / "image", dataset, {"encoder_dims": list(DIMS)}, embedded, "images"
    )
    found = candidates_of(dataset, store, seed=0)
    assert len(found) == 0
    assert choose(found, 5, RANDOM, 0) == []
