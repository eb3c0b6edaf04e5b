"""Tars that are there already are read where they are: no byte of them is copied or changed."""

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from corgi_core.data.dataset import Dataset
from corgi_core.data.ingest import ingest
from corgi_core.data.manifest import manifest_path, read_record, write_manifest
from corgi_core.data.parquet import read_rows
from corgi_core.data.quality import gate
from corgi_core.errors import CorgiError
from tests.helpers.made import SETTINGS, encoded, noise, tar_with
from tests.helpers.whole import skipped_of


def as_img2dataset(path: Path, keys: list[str]) -> None:
    """A tar as img2dataset writes it: image, caption and a record for each key."""
    files: dict[str, bytes | str] = {}
    for key in keys:
        files[f"{key}.jpg"] = encoded(noise(key), "JPEG")
        files[f"{key}.txt"] = f"caption {key}"
        files[f"{key}.json"] = json.dumps({"key": key, "url": "x", "width": 8, "height": 8})
    tar_with(path, files)


@pytest.fixture
def tars(tmp_path) -> Path:
    for number in range(3):
        keys = [f"{number:05d}{row:04d}" for row in (2, 0, 1, 3)]
        as_img2dataset(tmp_path / "web" / f"{number:05d}.tar", keys)
    return tmp_path / "web"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in folder.iterdir()}


def registered(tars: Path, folder: Path) -> Dataset:
    return ingest("webdataset", str(tars), folder, SETTINGS, 0, by_reference=True)


def test_the_dataset_is_that_of_a_copy_and_no_byte_is_copied(tmp_path, tars):
    before = contents(tars)
    there = registered(tars, tmp_path / "raw")
    assert contents(tars) == before
    assert not (tmp_path / "raw" / "shards").exists()
    copied = ingest("webdataset", str(tars), tmp_path / "copy", SETTINGS, 0)
    assert there.shards == copied.shards
    assert there.digest == copied.digest
    assert list(there.samples()) == list(copied.samples())
    assert list(there.images("00001")) == list(copied.images("00001"))
    images = [gate(raw, tmp_path / f"g{n}", SETTINGS) for n, raw in enumerate((there, copied))]
    assert images[0].digest == images[1].digest
    assert contents(tars) == before


def test_more_tars_are_added_and_images_that_are_there_are_passed_over(tmp_path, tars):
    registered(tars, tmp_path / "raw")
    as_img2dataset(tars / "00003.tar", ["000000001", "000030000"])  # one image is there already
    more = registered(tars, tmp_path / "raw")
    assert len(more) == 13
    assert [key for key, _ in more.images("00003")] == ["000030000"]
    again = skipped_of(more, last=True)
    assert (again["reason"] == "already there").all()
    assert len(again) == 13
    assert (
        len(ingest("imagefolder", str(folder_of(tmp_path / "in")), more.folder, SETTINGS, 0)) == 14
    )


def folder_of(folder: Path) -> Path:
    folder.mkdir()
    (folder / "own.png").write_bytes(encoded(noise("own")))
    return folder


def test_a_tar_that_has_changed_or_is_gone_is_refused(tmp_path, tars):
    raw = registered(tars, tmp_path / "raw")
    tar = tars / "00001.tar"
    whole = tar.read_bytes()
    os.utime(tar)  # another time, the same bytes
    assert len(list(raw.images("00001"))) == 4
    tar.write_bytes(whole[:-2000] + b"\1" + whole[-1999:])  # as long, another byte
    for gone in (False, True):
        if gone:
            tar.unlink()
        with pytest.raises(CorgiError, match="not there any more" if gone else "has changed") as e:
            list(raw.samples())
        assert str(tar) in e.value.problem
        assert "--replace" in e.value.remedy
    tar.write_bytes(whole[:-512])
    with pytest.raises(CorgiError, match="has changed"):
        list(raw.samples())
    assert len(list(raw.images("00000"))) == 4


def test_a_tar_that_an_older_version_registered_is_refused(tmp_path, tars):
    raw = registered(tars, tmp_path / "raw")
    record = read_record(raw.folder, "00001")
    older = replace(record, made_from={"members": record.made_from["members"]})
    write_manifest(raw.folder, read_rows(manifest_path(raw.folder, "00001")), older)
    with pytest.raises(CorgiError, match=r"00001\.tar was registered by an older version") as old:
        list(raw.images("00001"))
    assert "--replace" in old.value.remedy


def test_what_cannot_be_read_by_reference_is_refused(tmp_path, tars):
    with pytest.raises(CorgiError, match="only tars"):
        ingest("imagefolder", str(folder_of(tmp_path / "in")), tmp_path / "raw", SETTINGS, 0,
               by_reference=True)  # fmt: skip
    (tars / "9.tar.gz").write_bytes(gzip.compress((tars / "00000.tar").read_bytes()))
    with pytest.raises(CorgiError, match=r"9\.tar\.gz is compressed"):
        registered(tars / "9.tar.gz", tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_samples_of_several_images_and_links_are_read_as_when_copied(tmp_path):
    import io
    import tarfile

    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        for name in ("./b/x.left.png", "./b/x.right.PNG", "a.png"):
            data = encoded(noise(name))
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("linked.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a.png"
        tar.addfile(link)
    settings = replace(SETTINGS, shard_size=10)
    copied = ingest("webdataset", str(tmp_path / "odd.tar"), tmp_path / "copy", settings, 0)
    there = ingest(
        "webdataset", str(tmp_path / "odd.tar"), tmp_path / "raw", settings, 0, by_reference=True
    )
    assert list(there.samples()) == list(copied.samples())
    assert len(there) == 4
