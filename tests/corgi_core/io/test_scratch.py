"""Private folders: none outlives its process for long."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from corgi_core.io.scratch import private_folder, scratch_folder


def test_folders_of_killed_processes_are_cleared_away(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f"corgi-ray-{gone.pid}-abcd").mkdir()
    mine, others = tmp_path / f"corgi-ray-{os.getpid()}-abcd", tmp_path / "corgi-raytracer"
    mine.mkdir(), others.mkdir()
    folder = private_folder("corgi-ray-", tmp_path)
    assert set(tmp_path.iterdir()) == {mine, others, folder}


def test_a_scratch_folder_ends_with_its_block() -> None:
    with scratch_folder("corgi-test-") as folder:
        (folder / "file").touch()
    assert not folder.exists()
