"""Squares that are decoded online are those that would be stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from upath import UPath

from benchmarks.embedding_systems.photographs import photograph
from corgi_core.config import Framing
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.image_index import ImageIndex
from corgi_core.data.pixels import Pixels
from corgi_core.errors import CorgiError
from corgi_core.evaluation.held_out import HeldOut
from corgi_core.io import disk_cache
from corgi_core.io.disk_cache import cache_folder
from corgi_core.streaming import squares
from corgi_core.streaming.squares import Squares
from tests.helpers.made import sample

SIDE = 24
SIDES = [(60, 40), (24, 24), (30, 90), (200, 120), (10, 14), (25, 24), (48, 48)]
PARTS = [  # of two shards, in another order than theirs; one image twice
    ("00001", np.array([2, 0, 2]), np.array([4, 1, 0])),
    ("00000", np.array([3, 1]), np.array([2, 3])),
]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Seven photographs, larger and smaller than the squares, in two shards."""
    folder = tmp_path_factory.mktemp("photographs") / "images"
    samples = [sample(f"{n:02d}", photograph(n, *sides)) for n, sides in enumerate(SIDES)]
    return write_dataset(folder, samples, shard_size=4)


def index_of(images: Dataset, folder: Path, framing: Framing = "letterbox") -> ArrayStore:
    return ImageIndex(images, SIDE, framing).run(folder, "cpu", threads=1)


@pytest.mark.parametrize("framing", ["letterbox", "crop"])
@pytest.mark.parametrize("size", [SIDE, SIDE // 2, 17])
def test_they_are_the_stored_ones_bit_for_bit(
    photographs: Dataset, tmp_path: Path, framing: Framing, size: int
) -> None:
    stored = Squares(Pixels(photographs, SIDE, framing).run(tmp_path / "s", "cpu", 1), None)
    online = Squares(index_of(photographs, tmp_path / "o", framing), photographs)
    assert torch.equal(online.gather(5, PARTS, size), stored.gather(5, PARTS, size))
    assert online.gather(5, PARTS, size).shape == (5, 3, size, size)
    for ours, expected in zip(
        online.in_batches("00000", size, 3), stored.in_batches("00000", size, 3), strict=True
    ):
        assert ours[0].tolist() == expected[0].tolist()
        assert torch.equal(ours[1], expected[1])


def test_processes_decode_the_same(photographs: Dataset, tmp_path: Path) -> None:
    online = Squares(index_of(photographs, tmp_path), photographs)
    alone = online.gather(5, PARTS, SIDE // 2)
    with online.decoded_by(2):
        assert torch.equal(online.gather(5, PARTS, SIDE // 2), alone)
    assert torch.equal(online.gather(5, PARTS, SIDE // 2), alone)


def test_evaluations_decode_the_real_images(photographs: Dataset, tmp_path: Path) -> None:
    held_out = HeldOut(("00001", "00000"), ("06", "01"), ("a caption", "another"))
    stored = Squares(Pixels(photographs, SIDE).run(tmp_path / "s", "cpu", 1), None)
    online = Squares(index_of(photographs, tmp_path / "o"), photographs)
    rows = np.array([1, 0, 1])
    expected = held_out.gather_squares(rows, stored, SIDE)
    assert torch.equal(held_out.gather_squares(rows, online, SIDE), expected)
    assert torch.equal(expected[0], expected[2])


def test_no_images_are_a_batch_too(photographs: Dataset, tmp_path: Path) -> None:
    online = Squares(index_of(photographs, tmp_path), photographs)
    assert online.gather(0, [], 8).shape == (0, 3, 8, 8)


def test_the_dataset_is_asked_for(photographs: Dataset, tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match=r"has no pixels.*--set pixels=stored"):
        Squares(index_of(photographs, tmp_path), None)


@pytest.mark.parametrize("processes", [0, 1])
def test_a_damaged_image_is_named_with_its_shard(tmp_path: Path, processes: int) -> None:
    samples = [sample(f"{n:02d}", photograph(n, 40, 30)) for n in range(3)]
    images = write_dataset(tmp_path / "images", samples, shard_size=3)
    online = Squares(index_of(images, tmp_path / "o"), images)
    start, _ = images.ranges("00000")[1]
    with images.tar("00000").open("r+b") as tar:
        tar.seek(start + 200)
        tar.write(b"damaged")
    all_rows = [("00000", np.arange(3), np.arange(3))]
    damaged = r"image '01' of shard 00000, in .*00000\.tar, is damaged: its SHA-256 is wrong"
    if processes:
        with online.decoded_by(processes), pytest.raises(CorgiError, match=damaged):
            online.gather(3, all_rows, SIDE)
    else:
        with pytest.raises(CorgiError, match=damaged):
            online.gather(3, all_rows, SIDE)
    others = [("00000", np.array([0, 2]), np.arange(2))]
    assert online.gather(2, others, SIDE).shape == (2, 3, SIDE, SIDE)
    images.tar("00000").unlink()
    with pytest.raises(CorgiError, match=r"00000\.tar cannot be read"):
        online.gather(3, all_rows, SIDE)


def test_remote_tars_are_read_through_the_cache_within_its_budget(
    photographs: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_cache.tempfile, "tempdir", str(tmp_path))
    photographs.save(UPath("memory://squares/images"))
    remote = Dataset.load(UPath("memory://squares/images"))
    local = Squares(index_of(photographs, tmp_path / "o"), photographs)
    online = Squares(index_of(remote, tmp_path / "r"), remote)
    assert torch.equal(online.gather(5, PARTS, SIDE), local.gather(5, PARTS, SIDE))
    copies = sorted(cache_folder().glob("*.tar"))
    assert len(copies) == 2
    for copy in copies:  # as a failing disk leaves them
        copy.write_bytes(bytes(copy.stat().st_size))
    assert torch.equal(online.gather(5, PARTS, SIDE), local.gather(5, PARTS, SIDE))
    for copy in copies:
        copy.unlink()
    monkeypatch.setattr(disk_cache, "budget", 1 / disk_cache.GIGABYTE)  # less than any of them
    assert torch.equal(online.gather(5, PARTS, SIDE), local.gather(5, PARTS, SIDE))
    assert len(list(cache_folder().glob("*.tar"))) == 1
    tar = UPath(remote.tar("00001"))
    tar.write_bytes(bytes(len(tar.read_bytes())))
    for copy in cache_folder().glob("*.tar"):
        copy.unlink()
    with pytest.raises(CorgiError, match=r"image '06' of shard 00001, in memory:.* is damaged"):
        online.gather(5, PARTS, SIDE)


def test_want_of_memory_is_not_called_damage(
    photographs: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object) -> None:
        raise MemoryError

    online = Squares(index_of(photographs, tmp_path), photographs)
    monkeypatch.setattr(squares, "square", too_large)
    with pytest.raises(MemoryError):
        online.gather(5, PARTS, SIDE)
