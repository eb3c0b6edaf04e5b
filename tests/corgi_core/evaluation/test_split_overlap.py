"""Held-out images near an image of another split, against a comparison of all with all."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from upath import UPath

from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset
from corgi_core.data.gate_tables import PIXELS, pixels_path
from corgi_core.data.ingest import ingest
from corgi_core.data.parquet import write_table
from corgi_core.data.quality import gate
from corgi_core.errors import CorgiError
from corgi_core.evaluation.held_out import HeldOut
from corgi_core.evaluation.split_neighbours import HeldOutBlocks, SplitNeighbours
from corgi_core.evaluation.split_overlap import SplitOverlap, near_hashes, split_overlap_of
from tests.helpers.made import SETTINGS, encoded, noise
from tests.helpers.small import write_images
from tests.helpers.whole import manifest_of

DIMS = [3, 5]
NAMES = [
    *(f"train/{n}" for n in range(6)),
    *(f"val/{n}" for n in range(5)),
    *(f"test/{n}" for n in range(5)),
]
COPIES = {"test/0": "train/0", "val/1": "test/1", "train/2": "train/3"}  # by what they show
AGAINST = {"test": ("train",), "validation": ("train", "test")}


def scene(name: str, size: int = 64) -> bytes:
    picture = noise(name).resize((64, 64), Image.Resampling.BICUBIC)
    return encoded(picture.resize((size, size)))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Photos with the owner's three splits, which the gate does not move."""
    folder = tmp_path_factory.mktemp("overlap")
    for name in NAMES:
        path = folder / "in" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(scene(COPIES.get(name, name), 48 if name in COPIES else 64))
        path.with_suffix(".txt").write_text(f"photo {name}")
    raw = ingest("imagefolder", str(folder / "in"), folder / "raw", SETTINGS, 0)
    gated = gate(raw, folder / "images", SETTINGS)
    assert manifest_of(gated)["split"].tolist() == manifest_of(raw)["split"].tolist()
    return gated


@pytest.fixture(scope="module")
def embeddings(images: Dataset, tmp_path_factory: pytest.TempPathFactory) -> ArrayStore:
    """Directions that are random, each block by itself; one validation image is near a test one."""

    def embed(shard: str) -> dict[str, np.ndarray]:
        keys = [key for key, _ in images.images(shard)]
        names = ["test/4" if key == "val/3" else key for key in keys]
        z = [np.random.default_rng([*name.encode()]).normal(size=sum(DIMS)) for name in names]
        return {"keys": np.array(keys), "image": np.array(z, np.float16)}

    spec = {"encoder": "e", "encoder_dims": DIMS}
    return compute_missing(tmp_path_factory.mktemp("z"), images, spec, embed, "embeddings")


def neighbours(images: Dataset, embeddings: ArrayStore, folder: Path, size: int) -> ArrayStore:
    blocks = HeldOutBlocks(images, embeddings, size)
    sent = pickle.loads(pickle.dumps(SplitNeighbours(blocks, images, embeddings)))  # to a worker
    return sent.run(UPath(folder), "cpu", 1)


def mean_cosine(one: np.ndarray, other: np.ndarray) -> float:
    parts = zip(np.split(one, [DIMS[0]]), np.split(other, [DIMS[0]]), strict=True)
    return float(np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in parts]))


@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_nearest_is_that_of_a_comparison_of_all_with_all(
    images: Dataset, embeddings: ArrayStore, tmp_path: Path, size: int
) -> None:
    store = neighbours(images, embeddings, tmp_path, size)
    z = dict(zip(embeddings.keys.tolist(), embeddings.read("image").astype(float), strict=True))
    split = manifest_of(images).set_index("key")["split"].to_dict()
    found = dict(zip(store.keys.tolist(), store.read("cosine").tolist(), strict=True))
    assert found.keys() == {key for key in split if split[key] != "train"}
    for key, cosine in found.items():
        others = [k for k in split if split[k] in AGAINST[split[key]]]
        assert cosine == pytest.approx(max(mean_cosine(z[key], z[k]) for k in others), abs=1e-6)


def test_what_is_near_by_hash_or_by_embedding_does_not_count(
    images: Dataset, embeddings: ArrayStore, tmp_path: Path
) -> None:
    store = neighbours(images, embeddings, tmp_path / "near", 4)
    overlap = split_overlap_of(images, embeddings, store, 4, 0.999)
    near = overlap.pairs.set_index("key")
    assert overlap.keys("test") == {"test/0"}
    assert overlap.keys("validation") == {"val/1", "val/3"}
    assert near.loc["test/0", "hash_key"] == "train/0"
    assert near.loc["val/1", "hash_key"] == "test/1"
    assert near.loc["val/3", "nearest_key"] == "test/4"
    assert near.loc["val/3", "cosine"] == pytest.approx(1, abs=1e-3)
    assert overlap.counts == {
        "test_images": 5, "test_images_left_out": 1, "validation_images": 5,
        "validation_images_left_out": 2, "near_by_hash": 2, "near_by_embedding": 1,
    }  # fmt: skip
    assert overlap.displayed.set_index("key").loc["val/3", "hash_key"] is None
    overlap.save(tmp_path / "overlap")
    again = SplitOverlap.load(tmp_path / "overlap")
    assert (again.digest, again.counts) == (overlap.digest, overlap.counts)
    assert split_overlap_of(images, embeddings, None, None, 0.9).pairs.empty


def test_no_held_out_caption_is_of_an_image_that_does_not_count(
    images: Dataset, embeddings: ArrayStore, tmp_path: Path
) -> None:
    store = neighbours(images, embeddings, tmp_path, 4)
    overlap = split_overlap_of(images, embeddings, store, 4, 0.999)
    chosen = {
        split: HeldOut.of(images, 100, left_out=overlap.left_out, split=split).keys
        for split in AGAINST
    }
    assert set(chosen["test"]) == {f"test/{n}" for n in range(1, 5)}
    assert set(chosen["validation"]) == {"val/0", "val/2", "val/4"}
    with pytest.raises(CorgiError, match="left out") as error:
        HeldOut.of(images, 100, left_out={key for key in NAMES if key.startswith("test")})
    assert "data.twin_cosine" in error.value.remedy


def test_an_image_that_joins_two_splits_makes_the_held_out_ones_not_count(tmp_path: Path) -> None:
    """It came later, and is for training; a test image is compared with no validation image."""
    splits = ["test", "validation", "train", "test", "validation", "train"]
    dataset = write_images(UPath(tmp_path / "images"), list("abcdef"), splits)
    hashes = [0b1, 0b111111, 0b111, 2**40 - 1, 2**40 - 2, None]
    rows = [{"key": f"key{n}", "digest": f"{n}", "hash": each} for n, each in enumerate(hashes)]
    write_table(pixels_path(dataset.folder, "00000"), rows, PIXELS)
    assert sorted(near_hashes(dataset, 4)) == [
        ("key0", "key2", 2), ("key1", "key2", 3), ("key4", "key3", 1)
    ]  # fmt: skip
    assert sorted(near_hashes(dataset, 2)) == [("key0", "key2", 2), ("key4", "key3", 1)]
