"""Datasets and arrays on an S3 server over HTTP, which is moto's: no real S3 is asked."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset, is_dataset, write_dataset
from corgi_core.data.ingest import ingest
from corgi_core.data.quality import gate
from corgi_core.errors import CorgiError
from corgi_core.io.folders import published
from tests.helpers.made import SETTINGS, encoded, noise, samples, tar_with
from tests.helpers.s3 import S3, Door, door_to
from tests.helpers.whole import manifest_of, skipped_of

SMALL = replace(SETTINGS, shard_size=3, test_fraction=0.3)
APPENDER = """
import sys, time
from dataclasses import replace
from upath import UPath
from corgi_core.data import addition
from corgi_core.data.ingest import ingest
from tests.helpers.made import SETTINGS
from tests.helpers.whole import manifest_of
def sleep(*_, **__):
    print("written", flush=True)
    time.sleep(60)
addition.write_index = sleep
ingest("imagefolder", sys.argv[2], UPath(sys.argv[1]), replace(SETTINGS, shard_size=3), 0)
"""


@pytest.fixture
def root(s3: S3) -> UPath:
    return s3.path(uuid.uuid4().hex)


@pytest.fixture
def door(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """What this process asks of the store goes through here."""
    with door_to(s3) as door:
        monkeypatch.setenv("AWS_ENDPOINT_URL", door.endpoint)
        yield door


def pictures(folder: Path, names: str) -> str:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.png").write_bytes(encoded(noise(name)))
    return str(folder)


def test_data_are_added_and_replaced_as_in_a_local_folder(s3, root, tmp_path):
    local, remote = tmp_path / "raw", root / "raw"
    for names in ("abcde", "abcdefgh", "abcdefgh"):
        source = pictures(tmp_path / "in", names)
        here, there = (ingest("imagefolder", source, f, SMALL, 0) for f in (local, remote))
        assert there.digest == here.digest
        assert there.shards == here.shards
        assert list(there.samples()) == list(here.samples())
        assert skipped_of(there, last=True).equals(skipped_of(here, last=True))
        gated = [gate(here, tmp_path / "images", SMALL), gate(there, root / "images", SMALL)]
        assert gated[0].digest == gated[1].digest
        assert gated[0].recomputed == gated[1].recomputed
    anew = ingest("imagefolder", pictures(tmp_path / "new", "xyz"), remote, SMALL, 0, replaced=True)
    assert sorted(manifest_of(Dataset.load(remote))["key"]) == list("xyz")
    folder = str(anew.folder).removeprefix(str(root) + "/")
    objects = [key for key in s3.objects(root.name) if key.startswith("raw/")]
    assert all(key.startswith(folder) for key in objects if key != "raw/.generation")


def test_an_ingest_that_is_killed_before_its_last_object_adds_nothing(s3, root, tmp_path):
    first = ingest("imagefolder", pictures(tmp_path / "in", "abc"), root / "raw", SMALL, 0)
    before, digest = s3.objects(root.name), first.digest
    source = pictures(tmp_path / "more", "defgh")
    command = [sys.executable, "-c", APPENDER, str(root / "raw"), source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as appender:
        assert appender.stdout is not None
        assert appender.stdout.readline() == "written\n"
        appender.send_signal(signal.SIGKILL)
    assert len(s3.objects(root.name)) > len(before)
    assert Dataset.load(root / "raw").digest == digest
    again = ingest("imagefolder", source, root / "raw", SMALL, 0)
    assert sorted(manifest_of(again)["key"]) == list("abcdefgh")
    assert len(list(again.samples())) == 8


def test_a_first_ingest_that_is_killed_leaves_no_dataset(root, tmp_path):
    source = pictures(tmp_path / "in", "abc")
    command = [sys.executable, "-c", APPENDER, str(root / "raw"), source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "written\n"
        first.send_signal(signal.SIGKILL)
    assert not is_dataset(root / "raw")
    assert len(ingest("imagefolder", source, root / "raw", SMALL, 0)) == 3


def test_tars_on_the_store_are_registered_where_they_are(s3, root, door, tmp_path):
    for number in range(2):
        files = {f"{number}{row}.png": encoded(noise(f"{number}{row}")) for row in (2, 0, 1)}
        tar_with(tmp_path / "web" / f"{number:05d}.tar", files)
        tar = root / "web" / f"{number:05d}.tar"
        tar.write_bytes((tmp_path / "web" / f"{number:05d}.tar").read_bytes())
    there = ingest("webdataset", str(root / "web"), root / "raw", SMALL, 0, by_reference=True)
    copied = ingest("webdataset", str(tmp_path / "web"), tmp_path / "raw", SMALL, 0)
    door.requests.clear()
    assert list(there.samples()) == list(copied.samples())
    of_tars = [line for line in door.requests if "/web/" in line and line.startswith("GET")]
    assert len(of_tars) == 2  # a range of each
    assert not [key for key in s3.objects(root.name) if "raw" in key and key.endswith(".tar")]
    (root / "web" / "00001.tar").unlink()
    with pytest.raises(CorgiError, match=r"web/00001\.tar, which is registered by reference"):
        list(there.samples())


def store_of(folder: Path | UPath, shards: int) -> ArrayStore:
    images = write_dataset(folder / "images", samples(shards), shard_size=1)

    def compute(shard):
        keys = images.rows(shard, "key")["key"].to_numpy(dtype=str)
        return {"keys": keys, "z": np.full((len(keys), 2), int(shard), np.float32)}

    return compute_missing(folder / "z", images, {"width": 2}, compute, "z")


def test_a_store_is_read_in_a_request_a_shard_and_two_more(root, door, capsys):
    local_free = store_of(root, shards=20)
    digest = local_free.digest
    door.requests.clear()
    store = ArrayStore.load(root / "z")
    assert len(store) == 20
    assert store.digest == digest
    assert sum(len(chunk) for chunk in store.chunks("z")) == 20
    assert len(door.requests) == 20 + 2  # and the pointer, which is not there, and the index
    door.requests.clear()
    again = compute_missing(root / "z", Dataset.load(root / "images"), {"width": 2}, print, "z")
    assert again.recomputed == 0
    # the pointers, the marker, the indices, listings; each record twice, before and after
    assert len(door.requests) <= 2 * 20 + 20


def test_a_shard_that_is_missing_or_torn_is_named(s3, root):
    store = store_of(root, shards=3)
    path = published(root / "z") / "00001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert store.read_shard("00000", "z").tolist() == [[0, 0]]
    with pytest.raises(CorgiError, match=r"s3://.*/z/00001\.safetensors is damaged"):
        ArrayStore.load(root / "z").read("z")
    path.unlink()
    with pytest.raises(CorgiError, match=r"s3://.*/z/00001\.safetensors is not there any more"):
        ArrayStore.load(root / "z").read("z")
    images = Dataset.load(root / "images")
    tar = images.folder / "shards" / "00001.tar"
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(CorgiError, match=r"s3://.*/shards/00001\.tar is missing or damaged"):
        list(images.samples())
    tar.unlink()
    with pytest.raises(CorgiError, match=r"s3://.*/shards/00001\.tar is missing or damaged"):
        list(images.samples())
    assert len(store_of(root, shards=3).read("z")) == 3  # the next run computes what is missing
