"""Small folders, written and read as whole, where tests of files keep them."""

from __future__ import annotations

from pathlib import Path

from upath import UPath

from corgi_core.io.folders import atomic_folder, published
from corgi_core.io.markers import MARKER


def write_folder(path: Path | UPath, **contents: str) -> None:
    """Publish a folder with a text file for each of the contents."""
    with atomic_folder(path) as temporary:
        for name, content in contents.items():
            (temporary / f"{name}.txt").write_text(content)


def read_folder(path: Path | UPath) -> dict[str, str]:
    """The contents of the published folder by name."""
    files = [file for file in published(path).iterdir() if file.name != MARKER]
    return {file.stem: file.read_text() for file in files}
