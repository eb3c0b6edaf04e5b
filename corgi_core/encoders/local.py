"""A folder as local files, for libraries that read and write nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from corgi_core.io.files import is_local


@contextmanager
def local_folder(folder: Path | UPath, write: bool = False) -> Iterator[Path]:
    """Yield `folder` itself where it is local, else a temporary copy; `write` uploads it after."""
    if is_local(folder):
        yield Path(str(folder))
        return
    with tempfile.TemporaryDirectory() as temporary:
        local = Path(temporary)
        _copy(folder, local)
        yield local
        if write:
            _copy(local, folder)


def _copy(source: Path | UPath, target: Path | UPath) -> None:
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        copy = target / str(file)[len(str(source)) :].lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
