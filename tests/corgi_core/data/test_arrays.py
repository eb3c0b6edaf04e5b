"""Sharded arrays: computed once, whole whatever happens, and never taken for something else."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from upath import UPath

from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.errors import CorgiError
from corgi_core.io.markers import MARKER
from tests.helpers.made import samples

SPEC = {"encoder": "e1", "width": 3, "encoder_dims": (1, 2)}


def dataset_at(folder, count=10, shard_size=4):
    return write_dataset(folder, samples(count), shard_size)


def store_of(dataset, folder, spec=SPEC, called=None):
    """Two rows for every key but the first of its shard, with several kinds of numbers."""

    def compute(shard: str) -> dict[str, np.ndarray]:
        if called is not None:
            called.append(shard)
        keys = [k for n, (k, _) in enumerate(dataset.images(shard)) for k in [k] * (1 + (n > 0))]
        values = np.array([int(key) for key in keys])
        return {
            "keys": np.array(keys),
            "half": np.stack([values, -values, values / 2], 1).astype(np.float16),
            "mask": values[:, None] % 2 == 0,
            "bytes": (values % 256).astype(np.uint8),
        }

    return compute_missing(folder, dataset, spec, compute, "arrays")


def test_what_is_computed_is_read(tmp_path):
    store = ArrayStore.load(store_of(dataset_at(tmp_path / "set"), tmp_path / "store").folder)
    assert store.keys.tolist()[:4] == ["0000", "0001", "0001", "0002"]
    values = store.keys.astype(int)
    assert (store.read("half") == np.stack([values, -values, values / 2], 1)).all()
    assert store.read("half").dtype == np.float16
    assert store.read("mask").dtype == bool
    assert (store.read("bytes") == values).all()
    assert len(store) == len(values) == 17
    assert store.shards == ["00000", "00001", "00002"]
    assert (store.read_shard("00001", "bytes") == [4, 5, 5, 6, 6, 7, 7]).all()
    assert store.rows_of(["0005", "0000"]).tolist() == [8, 9, 0]
    assert store.spec == {"encoder": "e1", "width": 3, "encoder_dims": [1, 2]}


def test_chunks_are_the_rows_a_shard_at_a_time(tmp_path):
    store = ArrayStore.load(store_of(dataset_at(tmp_path / "set"), tmp_path / "store").folder)
    assert [len(chunk) for chunk in store.chunks("half")] == [7, 7, 3]
    assert (np.concatenate(list(store.chunks("half"))) == store.read("half")).all()
    some = {"0009", "0001", "0005", "not there"}
    chosen = list(store.chunks("half", some))
    assert [len(chunk) for chunk in chosen] == [2, 2, 2]
    assert (np.concatenate(chosen) == store.read("half")[np.isin(store.keys, list(some))]).all()
    assert [chunk.shape for chunk in store.chunks("half", set())] == [(0, 3)] * 3
    with pytest.raises(CorgiError, match="no array 'z'"):
        next(store.chunks("z"))


def test_only_what_is_missing_is_computed(tmp_path):
    dataset, folder = dataset_at(tmp_path / "set"), tmp_path / "store"
    first = store_of(dataset, folder)
    assert first.recomputed == 3
    assert store_of(dataset, folder).recomputed == 0

    (folder / "00001.safetensors").unlink()
    called = []
    assert store_of(dataset, folder, called=called).digest == first.digest
    assert called == ["00001"]

    more = dataset_at(tmp_path / "more", 11)  # one image more: the last shard alone has changed
    called = []
    store_of(more, folder, called=called)
    assert called == ["00002"]

    assert store_of(more, folder, spec=SPEC | {"encoder": "e2"}).recomputed == 3


def test_fewer_shards_leave_no_strays(tmp_path):
    folder = tmp_path / "store"
    store_of(dataset_at(tmp_path / "set", 10), folder)
    (folder / ".00000.safetensors.abc.tmp").write_bytes(b"what a killed run left")
    store = store_of(dataset_at(tmp_path / "fewer", 4), folder)
    assert store.recomputed == 0
    assert len(store) == 7
    assert sorted(f.name for f in folder.iterdir()) == [
        MARKER,
        "00000.json",
        "00000.safetensors",
        "index.json",
    ]


def test_a_folder_of_others_is_left_alone(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.json").write_text("my own words")
    with pytest.raises(CorgiError, match=r"notes\.json, which Corgi did not write"):
        store_of(dataset_at(tmp_path / "set"), folder)
    assert [file.name for file in folder.iterdir()] == ["notes.json"]


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:-1] + b"x"])
def test_a_torn_file_is_never_taken_for_whole(tmp_path, damage):
    dataset, folder = dataset_at(tmp_path / "set"), tmp_path / "store"
    whole = store_of(dataset, folder).digest
    torn = folder / "00001.safetensors"
    torn.write_bytes(damage(torn.read_bytes()))
    with pytest.raises(CorgiError, match=r"00001\.safetensors is damaged"):
        ArrayStore.load(folder).read("half")
    called = []
    assert store_of(dataset, folder, called=called).digest == whole
    assert called == ["00001"]
    assert len(ArrayStore.load(folder).read("half")) == 17


def test_a_mismatch_is_refused(tmp_path):
    folder = store_of(dataset_at(tmp_path / "set"), tmp_path / "store").folder
    ArrayStore.load(folder, expect={"encoder": "e1", "encoder_dims": (1, 2)})
    for expect in ({"encoder": "e2"}, {"width": 4}, {"encoder_dims": [1, 3]}, {"other": 1}):
        with pytest.raises(CorgiError, match=next(iter(expect))):
            ArrayStore.load(folder, expect=expect)
    with pytest.raises(CorgiError, match=r"no array 'z'.*bytes, half, mask"):
        ArrayStore.load(folder).read("z")
    with pytest.raises(CorgiError, match="no row for 'gone'"):
        ArrayStore.load(folder).rows_of(["0001", "gone"])
    with pytest.raises(CorgiError, match="no whole arrays"):
        ArrayStore.load(tmp_path)


def test_arrays_of_unequal_length_are_a_defect(tmp_path):
    def compute(shard: str) -> dict[str, np.ndarray]:
        return {"keys": np.array(["a"]), "x": np.zeros(2)}

    with pytest.raises(ValueError, match="number of rows"):
        compute_missing(tmp_path / "s", dataset_at(tmp_path / "set"), {}, compute, "arrays")


def test_saving_copies_and_pickles_as_a_folder(tmp_path):
    store = store_of(dataset_at(tmp_path / "set"), tmp_path / "store")
    remote = UPath("memory://test_arrays/copy")
    store.save(remote)
    copy = ArrayStore.load(remote)
    assert copy.digest == store.digest
    assert (copy.read("half") == store.read("half")).all()
    assert len(pickle.dumps(copy)) < 2000  # the folder, not the arrays that were read
    assert pickle.loads(pickle.dumps(store)).digest == store.digest


SLOW = """
import sys, time
from pathlib import Path
import numpy as np
from corgi_core.data.arrays import compute_missing
from corgi_core.data.dataset import Dataset

dataset = Dataset.load(Path(sys.argv[1]))

def compute(shard):
    print(shard, flush=True)
    keys = [key for key, _ in dataset.images(shard)]
    values = np.array([int(key) for key in keys], np.float32)
    return {"keys": np.array(keys), "x": np.repeat(values[:, None], 1_000_000, 1)}

compute_missing(Path(sys.argv[2]), dataset, {"x": 1}, compute, "x")
"""


def started(dataset: Dataset, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, str(dataset.folder), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_kill_minus_nine_at_any_moment(tmp_path):
    """Each run is killed a little later within the writing of a shard, then one runs to its end."""
    dataset, folder = dataset_at(tmp_path / "set", 16, shard_size=1), tmp_path / "store"
    computed: list[str] = []
    for kill in range(3):
        process = started(dataset, folder)
        lines = [process.stdout.readline().strip() for _ in range(4)]
        time.sleep(0.006 * kill)
        os.kill(process.pid, signal.SIGKILL)
        rest = process.communicate()[0].split()
        assert process.returncode == -signal.SIGKILL
        computed += [*lines, *rest]
        with pytest.raises(CorgiError, match="no whole arrays"):
            ArrayStore.load(folder)
        for file in folder.glob("*.safetensors"):  # whole under its own name, always
            assert file.stat().st_size > 4_000_000
    process = started(dataset, folder)
    computed += process.communicate(timeout=60)[0].split()
    assert process.returncode == 0
    assert set(computed) == set(dataset.shards)
    # a shard is computed again only if its own run was killed at it
    assert len(computed) <= len(dataset.shards) + 3
    store = ArrayStore.load(folder)
    assert (store.read("x")[:, 0] == store.keys.astype(int)).all()
    assert not [file.name for file in folder.iterdir() if file.name.endswith(".tmp")]


def test_shards_are_in_the_order_of_their_numbers_beyond_five_digits(tmp_path):
    names = ["99998", "99999", "100000", "100001"]
    dataset = SimpleNamespace(shards=names, shard_digest=str, images_in=lambda _: 1)
    store = compute_missing(tmp_path, dataset, {}, lambda shard: {"keys": np.array([shard])}, "z")
    assert store.shards == names
    assert ArrayStore.load(tmp_path).keys.tolist() == names
