"""What Corgi did not write is never replaced."""

import pytest

from corgi_core.errors import CorgiError
from corgi_core.io.folders import published
from corgi_core.io.markers import MARKER
from tests.helpers.folders import write_folder


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
    assert (published(root / "ours") / "model.txt").read_text() == "old"
    assert sorted(p.name for p in root.iterdir()) == ["file", "mine", "ours"]


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
    assert sorted(p.name for p in (tmp_path / "old").iterdir()) == [MARKER, "model.txt"]


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
