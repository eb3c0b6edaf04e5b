"""Folders that are replaced and added to as a whole, on a local disk and on an object store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from corgi_core.errors import CorgiError
from corgi_core.io.files import HOST
from corgi_core.io.folders import (
    atomic_folder,
    has_files,
    joining_folder,
    published,
    remove_folder,
)
from corgi_core.io.markers import MARKER
from tests.helpers.folders import read_folder, write_folder

KILLED = """
import json, os, signal, sys
from pathlib import Path
from tests.helpers.folders import read_folder, write_folder
path = Path(sys.argv[1])
OPERATIONS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")

def killed_before(number):
    count = 0
    def watch(event, arguments):
        nonlocal count
        if event not in OPERATIONS:
            return
        count += 1
        if count == number:
            # what a reader finds at this moment, while the writer lives
            os.write(1, (json.dumps(read_folder(path)) + "\\n").encode())
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
    write_folder(path, a="new", b="new")
    os._exit(0)

for number in range(1, 100):
    write_folder(path, a="old", b="old")
    child = os.fork() or killed_before(number)
    _, status = os.waitpid(child, 0)
    print(json.dumps(read_folder(path)), flush=True)
    if not status:
        break
"""


def test_a_reader_finds_all_of_the_old_or_the_new_folder_whenever_the_writer_is_killed(
    tmp_path: Path,
) -> None:
    """Just before each of its operations on files: read while it lives, and after its death."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "model")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    old, new = {"a": "old", "b": "old"}, {"a": "new", "b": "new"}
    assert len(found) > 10
    assert all(each in (old, new) for each in found)
    assert found[0] == old
    assert found[-1] == new
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_what_a_killed_writer_has_set_aside_is_brought_back(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    number = gone.pid

    def set_aside() -> None:
        write_folder(tmp_path / "model", a="old")
        (tmp_path / "model").rename(tmp_path / f".model.replaced-1-{HOST}-{number}.tmp")

    set_aside()
    assert has_files(tmp_path / "model")
    assert read_folder(tmp_path / "model") == {"a": "old"}
    assert [each.name for each in tmp_path.iterdir()] == ["model"]
    set_aside()
    with joining_folder(tmp_path / "model", "last.txt") as temporary:
        (temporary / "last.txt").write_text("more")
    assert read_folder(tmp_path / "model") == {"a": "old", "last": "more"}
    set_aside()
    remove_folder(tmp_path / "model")
    assert not list(tmp_path.iterdir())
    number = os.getpid()  # this process has the number that the writer had
    set_aside()
    assert read_folder(tmp_path / "model") == {"a": "old"}
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_two_writers_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as writers:
        for _ in range(10):
            contents = [{"a": f"{n}", "b": f"{n}"} for n in range(4)]
            list(writers.map(lambda each: write_folder(tmp_path / "model", **each), contents))
            assert read_folder(tmp_path / "model") in contents
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_a_folder_replaces_the_old_one_as_a_whole(root):
    for content in ("old", "new"):
        with atomic_folder(root / "model") as temporary:
            (temporary / f"{content}.txt").write_text(content)
    assert sorted(p.name for p in published(root / "model").iterdir()) == [MARKER, "new.txt"]
    assert [p.name for p in root.iterdir()] == ["model"]
    remove_folder(root / "model")
    remove_folder(root / "model")
    assert not (root / "model").exists()


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
    assert sorted(p.name for p in published(root / "empty").iterdir()) == [MARKER, "other.txt"]


def test_a_link_is_not_replaced(tmp_path):
    write_folder(tmp_path / "elsewhere", model="old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorgiError, match="is a link"):
        write_folder(tmp_path / "link", model="new")
    assert (tmp_path / "elsewhere" / "model.txt").read_text() == "old"
