"""Ingest: raw bytes, splits by group, the limit by key; bad input leaves nothing behind."""

import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from corgi_core.data.dataset import Dataset
from corgi_core.data.ingest import ingest
from corgi_core.data.quality import gate
from corgi_core.data.splits import Splits
from corgi_core.errors import CorgiError
from corgi_core.progress import listening
from tests.helpers.made import SETTINGS, encoded, noise
from tests.helpers.whole import manifest_of


def folder_of(path: Path, names: list[str]) -> str:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(encoded(noise(name)))
    return str(path)


def test_emoji(tmp_path):
    heard = []
    with listening(lambda *report: heard.append(report)):
        emoji = ingest("emoji", None, UPath(tmp_path / "emoji"), replace(SETTINGS, limit=200), 0)
    assert len(emoji) == 200
    assert heard
    again = ingest("emoji", None, tmp_path / "again", replace(SETTINGS, limit=200, shard_size=9), 0)
    columns = ["key", "sha256", "captions", "split", "group"]  # the same in other shards
    both = [
        manifest_of(each).sort_values("key")[columns].to_dict("list") for each in (emoji, again)
    ]
    assert both[0] == both[1]
    assert (manifest_of(emoji).groupby("group")["split"].nunique() == 1).all()
    assert manifest_of(emoji).groupby("group").size().max() > 2  # both vendors', and skin tones
    more = ingest("emoji", None, tmp_path / "more", replace(SETTINGS, limit=300), 0)
    assert set(manifest_of(emoji)["key"]) < set(manifest_of(more)["key"])
    for shard in emoji.shards:
        sha256 = emoji.rows(shard)["sha256"].tolist()
        assert [hashlib.sha256(i).hexdigest() for _, i in emoji.images(shard)] == sha256


def test_the_owners_split_is_used(tmp_path):
    folder = folder_of(tmp_path / "in", ["train/a.png", "train/b.png", "test/c.png", "d.png"])
    dataset = ingest("imagefolder", folder, tmp_path / "out", SETTINGS, 0)
    splits = dict(zip(manifest_of(dataset)["key"], manifest_of(dataset)["split"], strict=True))
    validated = {key for key, split in splits.items() if split == "validation"}
    assert len(validated) == 1
    assert validated < {"train/a", "train/b", "d"}
    assert splits == dict.fromkeys(splits, "train") | {"test/c": "test"} | dict.fromkeys(
        validated, "validation"
    )


def test_a_training_folder_alone_is_split(tmp_path):
    folder = folder_of(tmp_path / "in", [f"train/{n}.png" for n in range(6)])
    dataset = ingest("imagefolder", folder, tmp_path / "out", SETTINGS, 0)
    assert set(manifest_of(dataset)["split"]) == {"train", "validation", "test"}


GROUPS = st.lists(st.text(min_size=1, max_size=8), min_size=2, unique=True, max_size=60)


def split_of(groups, fraction=0.25, seed=3):
    splits = Splits(fraction, fraction / 2, seed)
    splits.note(groups, [None] * len(groups))
    return dict(zip(groups, splits.decide(groups, [None] * len(groups)), strict=True))


@settings(max_examples=30)
@given(GROUPS)
def test_each_split_has_something(groups):
    there = {"train", "test"} if len(groups) == 2 else {"train", "validation", "test"}
    assert set(split_of(groups).values()) == there


@settings(max_examples=30)
@given(GROUPS, GROUPS)
def test_more_data_do_not_move_what_was_held_out(groups, more):
    """But for the three groups that splits are given because they would have none."""
    few, many = split_of(groups), split_of(dict.fromkeys(groups + more))
    assert sum(few[group] != many[group] for group in groups) <= 3


def test_the_share_held_out_is_the_fraction():
    held_out = list(split_of([str(n) for n in range(20_000)], 0.1).values()).count("test")
    assert abs(held_out / 20_000 - 0.1) < 4 * (0.1 * 0.9 / 20_000) ** 0.5
    validation = list(split_of([str(n) for n in range(20_000)], 0.1).values()).count("validation")
    assert abs(validation / 20_000 - 0.05) < 4 * (0.05 * 0.95 / 20_000) ** 0.5
    other = split_of([str(n) for n in range(20_000)], 0.1, seed=4)
    assert other != split_of([str(n) for n in range(20_000)], 0.1, seed=3)


@pytest.mark.parametrize(
    ("source", "path", "words"),
    [
        ("imagefolder", "gone", "gone"),
        ("webdataset", "gone", "gone"),
        ("imagefolder", "empty", "no images"),
        ("webdataset", "empty", "no tar shards"),
        ("imagefolder", "single", "at least two"),
        ("imagefolder", None, "needs a path"),
        ("parquet", "empty", "emoji, emoji-full, imagefolder, img2dataset, narratives, webdataset"),
    ],
)
def test_bad_input_leaves_nothing_behind(tmp_path, source, path, words):
    (tmp_path / "in" / "empty").mkdir(parents=True)
    folder_of(tmp_path / "in" / "single", ["one.png"])
    folder = path and str(tmp_path / "in" / path)
    with pytest.raises(CorgiError, match=words):
        ingest(source, folder, tmp_path / "out" / "raw", SETTINGS, 0)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that opens but not reads")
def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(CorgiError, match="cannot read /proc/self/mem"):
        ingest("webdataset", "/proc/self/mem", tmp_path / "raw", SETTINGS, 0)


def test_a_failed_ingest_keeps_the_old_dataset(tmp_path):
    folder = folder_of(tmp_path / "in", ["a.png", "b.png"])
    before = ingest("imagefolder", folder, tmp_path / "out", SETTINGS, 0)
    with pytest.raises(CorgiError, match="headline"):
        ingest("imagefolder", folder, tmp_path / "out", SETTINGS, 0, caption_column="headline")
    assert type(before).load(tmp_path / "out").digest == before.digest


def test_a_tar_that_is_torn_half_way_leaves_nothing_behind(tmp_path):
    whole = tmp_path / "whole"
    folder = folder_of(tmp_path / "in", [f"{n}.png" for n in range(8)])
    ingest("imagefolder", folder, whole, replace(SETTINGS, shard_size=8), 0)
    tar = (whole / "shards" / "00000.tar").read_bytes()
    (tmp_path / "torn.tar").write_bytes(tar[: len(tar) // 2 - 300])
    settings = replace(SETTINGS, shard_size=1)  # so that shards are written before the fault
    with pytest.raises(CorgiError, match="not a whole tar"):
        ingest("webdataset", str(tmp_path / "torn.tar"), tmp_path / "out" / "raw", settings, 0)
    assert not list((tmp_path / "out").iterdir())


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def linked(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("raw", "raw"),  # onto itself
        ("raw/deep", "raw"),  # what is read lies in what is replaced
        ("link", "raw"),  # the same, by a link
        ("linked/raw", "raw"),
        ("raw", "linked/raw"),
        ("raw", "link"),
    ],
)
def test_originals_that_are_being_read_are_never_replaced(tmp_path, source, target):
    folder_of(tmp_path / "raw", ["deep/a.png", "deep/b.png", "deep/c.png"])
    linked(tmp_path / "link", tmp_path / "raw")
    linked(tmp_path / "linked", tmp_path)
    before = files_in(tmp_path / "raw")
    with pytest.raises(CorgiError, match="is being read"):
        ingest("imagefolder", str(tmp_path / source), tmp_path / target, SETTINGS, 0)
    assert files_in(tmp_path / "raw") == before


def test_a_dataset_that_is_being_read_is_never_replaced(tmp_path):
    """Not even where Corgi wrote it, and older versions' folders have no marker to say so."""
    folder = folder_of(tmp_path / "in", ["a.png", "b.png", "c.png"])
    raw = ingest("imagefolder", folder, tmp_path / "raw", SETTINGS, 0)
    before = files_in(tmp_path / "raw")
    for path in ("", "shards", "shards/00000.tar", "shards/*.tar", "shards/{00000,00000}.tar"):
        with pytest.raises(CorgiError, match="is being read"):
            ingest("webdataset", str(raw.folder / path), raw.folder, SETTINGS, 0)
    with pytest.raises(CorgiError, match="is being read"):
        gate(raw, raw.folder, SETTINGS)
    assert files_in(tmp_path / "raw") == before


def test_pictures_that_lie_where_a_dataset_would_are_left_alone(tmp_path):
    folder = folder_of(tmp_path / "photos", ["images/a.png", "images/b.png", "images/c.png"])
    before = files_in(tmp_path / "photos")
    raw = ingest("imagefolder", folder, tmp_path / "photos" / "raw_images", SETTINGS, 0)
    assert len(raw) == 3
    with pytest.raises(CorgiError, match=r"a\.png, which Corgi did not write"):
        gate(raw, tmp_path / "photos" / "images", SETTINGS)
    assert before.items() <= files_in(tmp_path / "photos").items()


def test_a_dataset_beside_its_source_is_not_read_again(tmp_path):
    """`corgi ingest .` twice: the second time, the first one's dataset lies in the source."""
    for count, name in enumerate(("a.png", "b.png", "c.png"), start=1):
        folder = folder_of(tmp_path, [name])
        if count > 1:
            raw = ingest("imagefolder", folder, tmp_path / "data" / "own", SETTINGS, 0)
            assert len(raw) == count


@pytest.mark.parametrize(
    ("fault", "said"), [(errno.ENOSPC, "No space left"), (errno.EACCES, "Permission denied")]
)
def test_a_disk_that_is_full_or_closed_is_one_sentence(tmp_path, monkeypatch, fault, said):
    folder = folder_of(tmp_path / "in", ["a.png", "b.png", "c.png"])
    before = ingest("imagefolder", folder, tmp_path / "out", SETTINGS, 0).digest

    def full(*_: object, **__: object) -> None:
        raise OSError(fault, os.strerror(fault), "manifest.parquet")

    monkeypatch.setattr("corgi_core.data.parquet.pq.write_table", full)
    folder_of(tmp_path / "in", ["d.png"])
    for replaced in (False, True):
        with pytest.raises(CorgiError, match=f"cannot write .*{said}"):
            ingest("imagefolder", folder, tmp_path / "out", SETTINGS, 0, replaced=replaced)
    assert Dataset.load(tmp_path / "out").digest == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in", "out"]
    with pytest.raises(CorgiError, match=r"cannot write .*too long"):
        ingest("imagefolder", folder, tmp_path / ("x" * 300), SETTINGS, 0)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CorgiError, match="cannot write"):
        ingest("imagefolder", folder, tmp_path / "file" / "raw", SETTINGS, 0)
