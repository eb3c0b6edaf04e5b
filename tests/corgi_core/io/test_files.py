"""Files that are whole or absent, on a local disk and on an object store's interface."""

import os
import subprocess
import sys
import time

import pytest

from corgi_core.io import files, folders
from corgi_core.io.files import atomic_file, digest_of, read_json, write_json


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


WRITER = """
from pathlib import Path; import sys, time
from corgi_core.io.files import atomic_file
from corgi_core.io.folders import atomic_folder
with globals()[sys.argv[1]](Path(sys.argv[2])) as temporary:
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
        with getattr(files if how == "atomic_file" else folders, how)(target) as temporary:
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
