"""The positions of images in their tars: those bytes are the images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image
from upath import UPath

from corgi_core.config import DataSettings
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.image_index import ImageIndex, is_online
from corgi_core.data.ingest import ingest
from corgi_core.data.pixels import Pixels
from corgi_core.errors import CorgiError
from corgi_core.io.files import read_ranges
from tests.helpers.made import encoded, sample

LONG = "k" * 150  # a tar has another header for a name that long


def four(folder: Path | UPath) -> Dataset:
    """Four images in two shards, of which some have captions between them."""
    names = ("a", "ü/b", "c", LONG)
    samples = [sample(k, encoded(Image.new("RGB", (4 + n, 5)))) for n, k in enumerate(names)]
    return write_dataset(folder, samples, shard_size=2)


def check_bytes(images: Dataset, folder: Path) -> None:
    """The index leads to the bytes that reading the whole tar gives."""
    index = ImageIndex(images, 8).run(folder, "cpu", threads=1)
    assert is_online(index)
    for shard in index.shards:
        ranges = zip(*(index.read_shard(shard, name) for name in ("start", "size")), strict=True)
        found = list(read_ranges(images.tar(shard), [(int(a), int(b)) for a, b in ranges]))
        keys, files = zip(*images.images(shard), strict=True)
        assert found == list(files)
        assert tuple(index.shard_keys(shard)) == keys
        digests = [row.tobytes() for row in index.read_shard(shard, "sha256")]
        assert digests == [hashlib.sha256(file).digest() for file in files]


def test_positions_are_those_of_the_files(tmp_path: Path) -> None:
    check_bytes(four(tmp_path / "images"), tmp_path / "index")


def test_positions_in_a_tar_that_lies_elsewhere_are_those_of_its_registration(
    tmp_path: Path,
) -> None:
    tars = four(tmp_path / "there").folder / "shards"
    images = ingest(
        "webdataset", str(tars), tmp_path / "images", DataSettings(), 0, by_reference=True
    )
    assert not list((tmp_path / "images").rglob("*.tar"))
    check_bytes(images, tmp_path / "index")


def test_positions_in_a_tar_of_an_object_store_are_found(tmp_path: Path) -> None:
    check_bytes(four(UPath("memory://positions/images")), tmp_path / "index")


def test_a_tar_with_other_images_than_its_manifest_is_refused(tmp_path: Path) -> None:
    images = four(tmp_path / "images")
    images.tar("00000").write_bytes(images.tar("00001").read_bytes())
    with pytest.raises(CorgiError, match=r"00000\.tar is missing or damaged.*other images"):
        images.ranges("00000")


def test_the_index_is_computed_anew_where_the_setting_changes(tmp_path: Path) -> None:
    images = four(tmp_path / "images")
    assert not is_online(Pixels(images, 8).run(tmp_path / "pixels", "cpu", threads=1))
    assert ImageIndex(images, 8).run(tmp_path / "pixels", "cpu", threads=1).recomputed == 2
    assert ImageIndex(images, 8).run(tmp_path / "pixels", "cpu", threads=1).recomputed == 0
