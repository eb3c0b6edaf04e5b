"""`corgi ingest` and `corgi gate` on people's own files: nothing of theirs is ever lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.made import encoded, noise


def corgi(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CORGI_")}
    return subprocess.run(
        [sys.executable, "-c", "from orchestration.cli.app import app; app()", *words],
        cwd=folder, env={**environment, "COLUMNS": "100", **more}, capture_output=True, text=True,
    )  # fmt: skip


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
