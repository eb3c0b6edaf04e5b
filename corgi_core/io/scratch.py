"""Private folders that end with their process; what killed processes left of theirs is removed."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corgi_core.io.files import HOST, is_running


def private_folder(prefix: str, parent: Path) -> Path:
    """A new folder in `parent`, which ends with this process.

    It is named by `prefix`, this machine, this process and a nonce. Those of processes of this
    machine that are gone are removed; another machine's, where `parent` is shared, are left to it.
    """
    folder = _new_folder(prefix, parent)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield a folder like `private_folder`'s, and remove it at the end of the block.

    Args:
        prefix: Of its name.
        parent: Where it is; by default where this machine keeps temporary files (TMPDIR).
    """
    folder = _new_folder(prefix, parent or Path(tempfile.gettempdir()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _new_folder(prefix: str, parent: Path) -> Path:
    named = re.compile(re.escape(f"{prefix}{HOST}-") + r"(\d+)-[0-9a-z_]+")
    for each in parent.iterdir():
        owner = named.fullmatch(each.name)
        if owner and not is_running(int(owner[1])):
            shutil.rmtree(each, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{HOST}-{os.getpid()}-", dir=parent))
