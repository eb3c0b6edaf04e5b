"""Training images among the evaluated: by hash, by embedding, by both, and by neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from upath import UPath

from corgi_core.config import ZeroShotSettings
from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.shards import Sample
from corgi_core.errors import CorgiError
from corgi_core.evaluation import overlap
from corgi_core.evaluation.nearest import Neighbours, TrainingImages
from corgi_core.evaluation.overlap import Overlap, overlap_of
from tests.helpers.small import png

SETTINGS = ZeroShotSettings(dataset="others", bits=6, cosine=0.97)
WIDTHS = (4, 6)


def a_dataset(folder: Path, names: list[str], splits: list[str], first: int) -> Dataset:
    samples = [
        Sample(name, png(first + i), [name], split, "test", name, "png")
        for i, (name, split) in enumerate(zip(names, splits, strict=True))
    ]
    return write_dataset(UPath(folder), samples, shard_size=3)


def stores(
    folder: Path, images: Dataset, hashes: dict[str, int], z: dict[str, np.ndarray], clip: str = "a"
) -> tuple[ArrayStore, ArrayStore]:
    """The hashes and embeddings that are given by key."""
    spec = {"encoder": clip, "names": ["a", "b"], "encoder_dims": list(WIDTHS), "width": 10}

    def keys_of(shard: str) -> np.ndarray:
        return images.rows(shard, "key")["key"].to_numpy(str)[::-1]  # in another order

    def hashed(shard: str) -> dict[str, np.ndarray]:
        keys = keys_of(shard)
        return {"keys": keys, "hash": np.array([hashes[key] for key in keys], np.uint64)}

    def embedded(shard: str) -> dict[str, np.ndarray]:
        keys = keys_of(shard)
        return {"keys": keys, "image": np.stack([z[key] for key in keys]).astype(np.float16)}

    return (
        compute_missing(folder / "hashes", images, {"size": 8}, hashed, "hashes"),
        compute_missing(folder / "embeddings", images, spec, embedded, "embeddings"),
    )


def between(z: np.ndarray, other: np.ndarray, cosine: float) -> np.ndarray:
    """The embedding on the arc from z to another whose cosine to z is this, by every encoder."""
    parts = []
    for a, b in zip(*(np.split(each, WIDTHS[:1]) for each in (z, other)), strict=True):
        a = a / np.linalg.norm(a)
        b = b - (a @ b) * a
        parts.append(cosine * a + np.sqrt(1 - cosine**2) * b / np.linalg.norm(b))
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Seven training images, of which one is held out, and six evaluated ones."""
    folder, random = tmp_path_factory.mktemp("overlap"), np.random.default_rng(0)
    names = [f"t{i}" for i in range(7)]
    images = a_dataset(folder / "training", names, ["train"] * 6 + ["test"], first=0)
    hashes = {name: int(random.integers(2**63)) for name in names}
    z = {name: random.standard_normal(10) for name in names}
    z["t2"] = between(z["t0"], z["t2"], 0.9)
    others = ["by_hash", "by_embedding", "both", "neither", "of_held_out", "by_chance"]
    evaluated = a_dataset(folder / "evaluated", others, ["test"] * 6, first=50)
    far = [random.standard_normal(10) for _ in others]
    own_hashes = {
        "by_hash": hashes["t4"] ^ 0b111111,  # six bits
        "by_embedding": hashes["t1"] ^ 0b1111111,  # seven
        "both": hashes["t2"], "neither": int(random.integers(2**63)), "of_held_out": hashes["t6"],
        "by_chance": hashes["t3"],
    }  # fmt: skip
    own_z = dict(zip(others, far, strict=True))
    own_z |= {"by_embedding": z["t5"] + 0.01, "both": 3 * z["t0"], "of_held_out": z["t6"]}
    own_z |= {"by_hash": between(z["t4"], far[0], 0.9), "by_chance": between(z["t3"], far[5], 0.5)}
    own = stores(folder / "evaluated-arrays", evaluated, own_hashes, own_z)
    theirs = stores(folder / "training-arrays", images, hashes, z)
    return evaluated, own, images, theirs


def test_each_way_finds_its_own_and_held_out_images_are_no_training_images(
    overlapping: tuple[object, ...],
) -> None:
    evaluated, (hashes, embeddings), images, (training_hashes, training_embeddings) = overlapping
    training = TrainingImages(images, training_embeddings)
    found = overlap_of(evaluated, embeddings, hashes, training, training_hashes, SETTINGS)
    assert found.counts == {"images": 6, "overlapping": 3, "by_hash": 2, "by_embedding": 2}
    pairs = found.pairs.set_index("key")
    assert pairs.loc["by_hash", ["by_hash", "bits", "training_key"]].tolist() == [True, 6, "t4"]
    assert not pairs.loc["by_hash", "by_embedding"]
    assert pairs.loc["by_embedding", ["by_embedding", "nearest_key"]].tolist() == [True, "t5"]
    assert not pairs.loc["by_embedding", "by_hash"]
    assert pairs.loc["both", ["training_key", "nearest_key"]].tolist() == ["t2", "t0"]
    assert pairs.loc[["by_hash", "both"], "hash_cosine"].tolist() == pytest.approx(
        [0.9, 0.9], abs=0.01
    )


def test_the_training_images_are_read_once_for_all_that_memory_holds(
    overlapping: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated, (hashes, embeddings), images, (training_hashes, training_embeddings) = overlapping
    training, asked = TrainingImages(images, training_embeddings), list[int]()
    nearest = TrainingImages.nearest

    def noted(self: TrainingImages, z: torch.Tensor, count: int) -> Neighbours:
        asked.append(len(z))
        return nearest(self, z, count)

    monkeypatch.setattr(TrainingImages, "nearest", noted)
    arguments = (evaluated, embeddings, hashes, training, training_hashes, SETTINGS)
    at_once = overlap_of(*arguments)
    monkeypatch.setattr(overlap, "COMPARED_AT_ONCE", 3)
    in_two = overlap_of(*arguments)
    assert asked == [6, 3, 3]
    assert at_once.digest == in_two.digest


def test_it_is_the_same_after_saving(overlapping: tuple[object, ...], tmp_path: Path) -> None:
    evaluated, (hashes, embeddings), images, (training_hashes, training_embeddings) = overlapping
    training = TrainingImages(images, training_embeddings)
    found = overlap_of(evaluated, embeddings, hashes, training, training_hashes, SETTINGS)
    for folder in (tmp_path / "overlap", UPath("memory://test_overlap/overlap")):
        found.save(folder)
        saved = Overlap.load(folder)
        assert (saved.digest, saved.keys, saved.counts) == (found.digest, found.keys, found.counts)
    with pytest.raises(CorgiError, match="holds no overlap"):
        Overlap.load(tmp_path / "nothing")


def test_an_image_without_an_embedding_is_named(
    overlapping: tuple[object, ...], tmp_path: Path
) -> None:
    _, (hashes, embeddings), images, (training_hashes, training_embeddings) = overlapping
    more = a_dataset(tmp_path, ["zero"], ["test"], first=90)
    training = TrainingImages(images, training_embeddings)
    with pytest.raises(CorgiError, match="has no row for 'zero'"):
        overlap_of(more, embeddings, hashes, training, training_hashes, SETTINGS)


def test_embeddings_of_other_encoders_are_refused(
    overlapping: tuple[object, ...], tmp_path: Path
) -> None:
    evaluated, (hashes, _), images, (training_hashes, training_embeddings) = overlapping
    z = {key: np.ones(10) for key in evaluated.keys("test")}
    _, other = stores(tmp_path, evaluated, dict.fromkeys(z, 1), z, clip="b")
    with pytest.raises(CorgiError, match="different CLIP encoders"):
        overlap_of(
            evaluated, other, hashes, TrainingImages(images, training_embeddings),
            training_hashes, SETTINGS,
        )  # fmt: skip
