"""A job: small when it is sent, refused where its folders are not, and killed without loss."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from corgi_core.data.array_jobs import ShardWriter
from corgi_core.data.arrays import ArrayStore, finished_store, missing_shards
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.pixels import Pixels
from corgi_core.errors import CorgiError
from tests.helpers.array_jobs import Numbers
from tests.helpers.made import samples


@pytest.fixture
def numbers(tmp_path: Path) -> Numbers:
    images = write_dataset(tmp_path / "images", samples(10), shard_size=2)
    (tmp_path / "log").mkdir()
    return Numbers(images, tmp_path / "log")


def test_a_job_is_sent_without_what_it_has_read(numbers: Numbers) -> None:
    assert len(numbers.images) == 10  # read, and remembered
    sent = pickle.dumps(numbers)
    assert len(sent) < 1000
    assert pickle.loads(sent) == numbers
    assert pickle.loads(sent).folders == [numbers.images.folder, numbers.log]


def test_shards_are_written_in_any_order_by_any_writer(numbers: Numbers, tmp_path: Path) -> None:
    straight = numbers.run(tmp_path / "straight", "cpu", 1)
    for event in numbers.log.iterdir():
        event.unlink()
    folder = tmp_path / "shared"
    missing = missing_shards(folder, numbers.images, numbers.spec)
    assert [shard.name for shard in missing] == numbers.images.shards
    write = pickle.loads(pickle.dumps(ShardWriter(numbers, folder))).opened("cpu", 1)
    for shard in reversed(missing):
        write(shard)
        if shard is missing[2]:
            left = missing_shards(folder, numbers.images, numbers.spec)
            assert left == missing[:2]
    store = finished_store(folder, numbers.images, numbers.spec, missing)
    assert store.digest == straight.digest
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {
        f.name: f.read_bytes() for f in straight.folder.iterdir()
    }


def test_a_shard_that_was_written_elsewhere_is_missed(numbers: Numbers, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    missing = missing_shards(folder, numbers.images, numbers.spec)
    write = ShardWriter(numbers, folder).opened("cpu", 1)
    for shard in missing[:-1]:
        write(shard)
    with pytest.raises(CorgiError, match=r"shard 00004 has been computed, but .*store does not"):
        finished_store(folder, numbers.images, numbers.spec, missing)
    assert not (folder / "index.json").exists()


def test_a_machine_without_the_folders_says_which(numbers: Numbers, tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match=r"is to compute numbers, does not see .*store"):
        ShardWriter(numbers, tmp_path / "store").opened("cpu", 1)
    missing_shards(tmp_path / "store", numbers.images, numbers.spec)
    moved = Numbers(Dataset(tmp_path / "elsewhere"), numbers.log)
    with pytest.raises(CorgiError, match=r"does not see .*elsewhere"):
        ShardWriter(moved, tmp_path / "store").opened("cpu", 1)


def test_a_higher_revision_computes_every_shard_again(
    numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> ArrayStore:
        for event in numbers.log.iterdir():
            event.unlink()
        return numbers.run(tmp_path / "store", "cpu", 1)

    digest = run().digest
    assert run().recomputed == 0
    monkeypatch.setattr(Numbers, "revision", Numbers.revision + 1)
    again = run()
    assert again.recomputed == len(numbers.images.shards)
    assert again.digest != digest
    assert again.spec == {"base": 10, "revision": Numbers.revision}


def test_pixels_depend_on_no_number_of_threads(numbers: Numbers) -> None:
    one = Pixels(numbers.images, 5).opened("cpu", 1)("00002")
    several = Pixels(numbers.images, 5).opened("cpu", 3)("00002")
    assert one["keys"].tolist() == several["keys"].tolist()
    assert one["pixels"].tobytes() == several["pixels"].tobytes()
