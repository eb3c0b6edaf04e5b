"""Whole files and folders, on a local disk and on an object store's interface."""

import os
import subprocess
import sys
import time
import uuid

import pytest
from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io import files
from corgi_core.io.files import (
    atomic_file,
    atomic_folder,
    digest_of,
    read_json,
    remove_folder,
    write_json,
)
from corgi_core.io.model_folder import digest_of_tensors, read_model_folder, write_model_folder


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    return UPath(tmp_path) if request.param == "local" else UPath(f"memory://{uuid.uuid4().hex}")


def test_a_file_appears_whole(root):
    with atomic_file(root / "a" / "b.txt") as temporary:
        temporary.write_text("half")
        assert not (root / "a" / "b.txt").exists()
        temporary.write_text("whole")
    assert (root / "a" / "b.txt").read_text() == "whole"
    assert [p.name for p in (root / "a").iterdir()] == ["b.txt"]


def test_a_failed_write_leaves_the_old_file(root):
    write_json(root / "x.json", {"version": 1})

    def fail():
        with atomic_file(root / "x.json") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_json(root / "x.json") == {"version": 1}
    assert [p.name for p in root.iterdir()] == ["x.json"]


def test_a_folder_replaces_the_old_one_as_a_whole(root):
    for content in ("old", "new"):
        with atomic_folder(root / "model") as temporary:
            (temporary / f"{content}.txt").write_text(content)
    assert sorted(p.name for p in (root / "model").iterdir()) == [files.MARKER, "new.txt"]
    assert [p.name for p in root.iterdir()] == ["model"]
    remove_folder(root / "model")
    remove_folder(root / "model")
    assert not (root / "model").exists()


def write_folder(path, **contents):
    with atomic_folder(path) as temporary:
        for name, content in contents.items():
            (temporary / f"{name}.txt").write_text(content)


def test_a_folder_of_others_is_never_replaced(root):
    """Neither a whole folder, nor one file that was put into a folder of Corgi's."""
    (root / "mine" / "deep").mkdir(parents=True)
    (root / "mine" / "deep" / "cat.jpg").write_text("a picture")
    write_folder(root / "ours", model="old")
    (root / "ours" / "notes.md").write_text("my own words")
    (root / "file").write_text("one file")
    for name, foreign in [("mine", "cat.jpg"), ("ours", "notes.md"), ("file", "is a file")]:
        with pytest.raises(CorgiError, match=foreign):
            write_folder(root / name, model="new")
    assert (root / "mine" / "deep" / "cat.jpg").read_text() == "a picture"
    assert (root / "ours" / "notes.md").read_text() == "my own words"
    assert (root / "ours" / "model.txt").read_text() == "old"
    assert sorted(p.name for p in root.iterdir()) == ["file", "mine", "ours"]


def test_a_folder_that_became_anothers_while_its_successor_was_written_stays(root):
    def overtaken():
        with atomic_folder(root / "model") as temporary:
            (temporary / "new.txt").write_text("new")
            (root / "model").mkdir()
            (root / "model" / "cat.jpg").write_text("a picture")

    with pytest.raises(CorgiError, match=r"cat\.jpg"):
        overtaken()
    assert (root / "model" / "cat.jpg").read_text() == "a picture"
    assert [p.name for p in root.iterdir()] == ["model"]


def test_empty_folders_and_what_file_managers_leave_are_replaced(root):
    (root / "empty").mkdir(parents=True)
    write_folder(root / "empty", model="new")
    (root / "empty" / ".DS_Store").write_text("a file manager's")
    write_folder(root / "empty", other="newer")
    assert sorted(p.name for p in (root / "empty").iterdir()) == [files.MARKER, "other.txt"]


@pytest.mark.parametrize(
    "old",
    [
        {"manifest.parquet": "", "shards/00000.tar": "", "quarantine.parquet": ""},
        {"config.json": '{"kind": "prior", "weights": "0"}', "model.safetensors": ""},
        {"index.json": '{"spec": {}, "shards": {}}', "00000.safetensors": "", "00000.json": ""},
        {"00000.json": '{"source": "", "sha256": "", "rows": 1}', "00000.safetensors": ""},
        {"metrics.json": '{"protocol": {}, "priors": {}}', "grid.png": ""},
        {"measurements.json": "{}", "figure.png": "", "tables/all.md": ""},
    ],
)
def test_folders_of_versions_without_a_marker_are_known_by_their_files(tmp_path, old):
    for name, content in old.items():
        (tmp_path / "old" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "old" / name).write_text(content)
    write_folder(tmp_path / "old", model="new")
    assert sorted(p.name for p in (tmp_path / "old").iterdir()) == [files.MARKER, "model.txt"]


@pytest.mark.parametrize(
    "names",
    [
        ["manifest.parquet"],
        ["manifest.parquet", "shards/00000.tar", "shards/cat.jpg"],
        ["config.json", "model.safetensors"],
        ["00000.tar", "00001.tar"],
        ["index.json"],
        ["measurements.json", "cat.jpg"],
        [".git/config"],
    ],
)
def test_folders_that_only_look_like_corgis_stay(tmp_path, names):
    for name in names:
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text("{}")
    with pytest.raises(CorgiError, match="did not write"):
        write_folder(tmp_path / "mine", model="new")
    assert all((tmp_path / "mine" / name).exists() for name in names)


def test_a_link_is_not_replaced(tmp_path):
    write_folder(tmp_path / "elsewhere", model="old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorgiError, match="is a link"):
        write_folder(tmp_path / "link", model="new")
    assert (tmp_path / "elsewhere" / "model.txt").read_text() == "old"


WRITER = """
from pathlib import Path; import sys, time
from corgi_core.io import files
with getattr(files, sys.argv[1])(Path(sys.argv[2])) as temporary:
    (temporary if sys.argv[1] == "atomic_file" else temporary / "part").write_text("half")
    print("written", flush=True)
    time.sleep(60)
"""


def start_writing(how, target):
    command = [sys.executable, "-c", WRITER, how, str(target)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "written\n"
    return writer


@pytest.mark.parametrize("how", ["atomic_file", "atomic_folder"])
def test_what_a_killed_writer_left_is_never_whole_and_goes_with_the_next_write(tmp_path, how):
    target = tmp_path / "weights.bin"
    killed, living, other = (
        start_writing(how, path) for path in (target, target, tmp_path / "weights.bin.2")
    )
    try:
        for writer in (killed, other):
            writer.kill()
            writer.wait()
        assert not target.exists()
        assert len(list(tmp_path.iterdir())) == 3
        with getattr(files, how)(target) as temporary:
            (temporary if how == "atomic_file" else temporary / "part").write_text("whole")
        left = {path.name.split("-")[1] for path in tmp_path.iterdir() if path != target}
        assert left == {str(living.pid), str(other.pid)}  # of a live writer; of another file
    finally:
        living.kill()
        living.wait()


def test_an_attempt_of_another_machine_goes_after_a_day(tmp_path):
    fresh, old = (tmp_path / f".a.json.abcdef-1-0000000{n}.tmp" for n in (1, 2))
    for attempt in (fresh, old):
        attempt.write_text("half")
    yesterday = time.time() - files.ABANDONED_AFTER - 1
    os.utime(old, (yesterday, yesterday))
    write_json(tmp_path / "a.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [fresh.name, "a.json"]


def test_digests_follow_content_and_not_order():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of(1) != digest_of("1")


def test_model_folders_are_checked(root):
    import torch

    tensors = {"w": torch.arange(4.0)}
    folder = root / "model"
    digest = write_model_folder(folder, "prior", {"width": 4}, tensors, {"metrics": {}})
    assert digest == digest_of_tensors(tensors)
    saved = read_model_folder(folder, "prior")
    assert saved.config["width"] == 4
    assert torch.equal(saved.tensors["w"], tensors["w"])
    with pytest.raises(CorgiError, match="not a 'decoder'"):
        read_model_folder(folder, "decoder")
    (folder / "card.json").unlink()
    with pytest.raises(CorgiError, match=r"card\.json is missing"):
        read_model_folder(folder, "prior")
