"""Folders that are replaced and added to as a whole, on a local disk and on an object store."""

import uuid

import pytest
from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.folders import atomic_folder, published, remove_folder
from corgi_core.io.markers import MARKER


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    return UPath(tmp_path) if request.param == "local" else UPath(f"memory://{uuid.uuid4().hex}")


def write_folder(path, **contents):
    with atomic_folder(path) as temporary:
        for name, content in contents.items():
            (temporary / f"{name}.txt").write_text(content)


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
