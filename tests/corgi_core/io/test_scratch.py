"""Private folders: none outlives its process for long."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from pathlib import Path

from corgi_core.io.files import HOST
from corgi_core.io.scratch import private_folder, scratch_folder

OTHER_HOST = "abcdef" if HOST != "abcdef" else "fedcba"


def test_folders_of_killed_processes_are_cleared_away(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f"corgi-ray-{HOST}-{gone.pid}-abcd1_23").mkdir()
    others = {
        tmp_path / name
        for name in (
            f"corgi-ray-{HOST}-{os.getpid()}-abcd1_23",  # of a process that runs
            f"corgi-ray-{OTHER_HOST}-{gone.pid}-abcd1_23",  # whose process may run there
            "corgi-raytracer", f"corgi-ray-{gone.pid}",  # of other programs
        )
    }  # fmt: skip
    for other in others:
        other.mkdir()
    folder = private_folder("corgi-ray-", tmp_path)
    assert set(tmp_path.iterdir()) == {*others, folder}
    assert folder.name.startswith(f"corgi-ray-{HOST}-{os.getpid()}-")


def test_a_scratch_folder_ends_with_its_block() -> None:
    with scratch_folder("corgi-test-") as folder:
        (folder / "file").touch()
    assert not folder.exists()


def test_scratch_folders_of_a_long_process_leave_nothing_for_its_end(tmp_path: Path) -> None:
    before = atexit._ncallbacks()
    with scratch_folder("corgi-test-", tmp_path) as folder:
        assert folder.parent == tmp_path
    assert atexit._ncallbacks() == before
