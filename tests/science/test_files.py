"""Whole files and folders, on a local disk and on an object store's interface."""

import os
import signal
import subprocess
import sys
import time
import uuid

import pytest
from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.files import (
    digest_of,
    read_json,
    remove_folder,
    whole_file,
    whole_folder,
    write_json,
)
from corgi_core.model_folder import digest_of_tensors, read_model_folder, write_model_folder


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    return UPath(tmp_path) if request.param == "local" else UPath(f"memory://{uuid.uuid4().hex}")


def test_a_file_appears_whole(place):
    with whole_file(place / "a" / "b.txt") as temporary:
        temporary.write_text("half")
        assert not (place / "a" / "b.txt").exists()
        temporary.write_text("whole")
    assert (place / "a" / "b.txt").read_text() == "whole"
    assert [p.name for p in (place / "a").iterdir()] == ["b.txt"]


def test_a_failed_write_leaves_the_old_file(place):
    write_json(place / "x.json", {"version": 1})

    def fail():
        with whole_file(place / "x.json") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_json(place / "x.json") == {"version": 1}
    assert [p.name for p in place.iterdir()] == ["x.json"]


def test_a_folder_replaces_the_old_one_as_a_whole(place):
    for content in ("old", "new"):
        with whole_folder(place / "model") as temporary:
            (temporary / f"{content}.txt").write_text(content)
    assert [p.name for p in (place / "model").iterdir()] == ["new.txt"]
    assert [p.name for p in place.iterdir()] == ["model"]
    remove_folder(place / "model")
    remove_folder(place / "model")
    assert not (place / "model").exists()


def test_a_killed_writer_leaves_no_torn_file(tmp_path):
    script = (
        "from pathlib import Path; import sys, time\n"
        "from corgi_core.files import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as t:\n"
        "    t.write_text('half'); print('written', flush=True); time.sleep(60)\n"
    )
    target = tmp_path / "weights.bin"
    writer = subprocess.Popen(
        [sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "written\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    time.sleep(0.01)
    assert not target.exists()


def test_digests_follow_content_and_not_order():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of(1) != digest_of("1")


def test_model_folders_are_checked(place):
    import torch

    tensors = {"w": torch.arange(4.0)}
    folder = place / "model"
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
