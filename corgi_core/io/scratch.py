"""Private folders that end with their process; what killed processes left of theirs is removed."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corgi_core.io.files import is_running


def private_folder(prefix: str, parent: Path) -> Path:
    """A new folder in `parent`, named by `prefix` and this process, which ends with the process."""
    for left_over in parent.glob(f"{prefix}*"):
        owner = left_over.name.removeprefix(prefix).partition("-")[0]
        if owner.isdecimal() and not is_running(int(owner)):
            shutil.rmtree(left_over, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Yield a private folder where this machine keeps temporary files (TMPDIR), and remove it."""
    folder = private_folder(prefix, Path(tempfile.gettempdir()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
