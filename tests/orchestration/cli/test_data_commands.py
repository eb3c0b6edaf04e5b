"""`corgi ingest` and `corgi gate` on people's own files: nothing of theirs is ever lost."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from orchestration.cli.app import cli
from tests.helpers import forked
from tests.helpers.made import encoded, noise, tar_with


def corgi(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CORGI_")}
    return forked.run(forked.CORGI, words, {**environment, "COLUMNS": "100", **more}, folder)


def pictures(folder: Path, *names: str) -> dict[Path, bytes]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(noise(name)))
    return {folder / name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize("where", ["images", "raw_images"])
def test_pictures_below_data_survive_ingest_and_gate(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "data" / "photos" / where
    originals = pictures(folder, "a.png", "b.png", "c.png")
    for path in ("data/photos", f"data/photos/{where}"):
        done = corgi(tmp_path, "ingest", path, "--format", "imagefolder", "--name", "photos")
        assert (done.returncode, done.stdout) == (2, "")
        assert "Traceback" not in done.stderr
        corgi(tmp_path, "gate", "--dataset", "photos")
        assert {path: path.read_bytes() for path in originals} == originals
        assert set(folder.iterdir()) == set(originals)


def test_pictures_beside_the_dataset_are_ingested_twice_and_stay(tmp_path: Path) -> None:
    originals = pictures(tmp_path / "data" / "photos", "a.png", "b.png", "c.png")
    for _ in range(2):
        for command in (
            ["ingest", "data/photos", "--format", "imagefolder", "--name", "photos"],
            ["gate", "--dataset", "photos"],
        ):
            done = corgi(tmp_path, *command)
            assert done.returncode == 0, done.stderr
            assert "3 images" in done.stdout
    assert {path: path.read_bytes() for path in originals} == originals


def test_ingest_says_what_it_read_and_what_it_passed_over(tmp_path: Path) -> None:
    originals = pictures(tmp_path / "in", "train/a.png", "val/b.png", "val/c.jfif", ".git/x.png")
    (tmp_path / "in" / "train" / "a.txt").write_text("one")
    (tmp_path / "in" / "metadata.csv").write_text("file_name,text\nval/b.png,two\nx,y,z\n")
    (tmp_path / "in" / "notes.md").write_text("mine")
    (tmp_path / "in" / "more.md").write_text("mine")
    done = corgi(tmp_path, "ingest", "in", "--format", "imagefolder", "--name", "own")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].endswith(
        "3 images, 2 with captions (2 captions); 1 for training, 0 for validation, 2 for testing "
        "(the data's own validation split: they have no test split)"
    )
    assert said[1].startswith("4 passed over, each named in ")
    assert said[1].endswith("data/own/raw_images/skipped:")
    assert said[2] == "  2 not an image (.md), such as more.md"
    assert sorted(said[3:5]) == [
        "  1 bad row, such as metadata.csv, line 3 (3 cells in 2 columns: quote texts that hold "
        "',')",
        "  1 hidden, such as .git",
    ]
    assert "corgi run" in said[5]
    assert {path: path.read_bytes() for path in originals} == originals


def test_tars_by_reference_more_of_them_and_one_that_was_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ingest(*words: str) -> Result:
        return CliRunner().invoke(cli, ["ingest", "--name", "web", *words], catch_exceptions=False)

    def tar(number: int) -> bytes:
        name = f"{number}-"
        files = {f"{name}{row}.png": encoded(noise(f"{name}{row}")) for row in range(4)}
        return Path(tar_with(tmp_path / "in" / f"{number}.tar", files)).read_bytes()

    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CORGI_")]:
        monkeypatch.delenv(name)
    whole = [tar(0), tar(1)]
    (tmp_path / "in" / "1.tar").write_bytes(whole[1][:1500])
    words = ("in", "--format", "webdataset", "--by-reference")
    assert "1 not a whole tar, such as 1.tar" in ingest(*words, "--replace").output
    assert not (tmp_path / "data" / "web" / "raw_images" / "shards").exists()
    (tmp_path / "in" / "1.tar").write_bytes(whole[1])
    done = ingest("--retry-failed")
    assert "8 images" in done.output
    assert "4 of them are new, in shards of their own" in done.output
    assert "None of them is new" in ingest(*words).output
    for faulty in ((*words, "--retry-failed"), ("--retry-failed",)):
        done = ingest(*faulty)
        assert done.exit_code == 2
        assert "retry-failed" in done.stderr or "failed to read anything" in done.stderr


def test_too_few_images_are_said_at_once_with_a_remedy_that_works(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in [f"{n}.png" for n in range(12)]:
        pictures(folder, name)
        (folder / f"{name[:-4]}.txt").write_text(f"number {name}")
    words = ["ingest", "in", "--format", "imagefolder", "--name", "own"]
    done = corgi(tmp_path, *words)
    assert done.returncode == 0
    assert done.stderr.startswith("Warning: ")
    assert len(done.stderr.strip().splitlines()) == 1
    remedy = done.stderr.rpartition("ingest again with ")[2].strip(". \n")
    assert remedy.startswith("--replace --set data.test_fraction=")
    done = corgi(tmp_path, *words, *remedy.split())
    assert (done.returncode, done.stderr) == (0, "")
    done = corgi(tmp_path, "gate", "--dataset", "own")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_known_layout_is_recognised_and_another_format_for_it_is_warned_of(
    tmp_path: Path,
) -> None:
    for number in range(3):
        pictures(tmp_path / "faces", f"images/{number}.jpg")
        text = tmp_path / "faces" / "text" / "celeba-caption" / f"{number}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(f"face {number}\nthe same face\n")
    done = corgi(tmp_path, "ingest", "faces", "--name", "faces")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("faces has the layout of Multi-modal CelebA-HQ: it is read by ")
    assert "3 images, 3 with captions (6 captions)" in done.stdout
    words = ("ingest", "faces", "--format", "imagefolder", "--name", "faces", "--replace")
    done = corgi(tmp_path, *words)
    assert done.stderr.startswith("Warning: faces has the layout of Multi-modal CelebA-HQ")
    assert "Fix: --format celeba" in done.stderr
    assert "3 images, 0 with captions" in done.stdout
