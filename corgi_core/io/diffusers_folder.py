"""Folders that diffusers' `save_pretrained` wrote: what is in them, and what must not be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of, digest_of_file

READ = (".json", ".safetensors", ".txt", ".model")  # suffixes of the files that are loaded


def digest_of_diffusers(folder: Path, parts: Sequence[str] = ("",)) -> str:
    """Names the files that are loaded from some of a folder's parts, all of them by default."""
    files = sorted(
        path
        for part in parts
        for path in (folder / part).rglob("*")
        if path.suffix in READ and path.is_file()
    )
    return digest_of(
        [(path.relative_to(folder).as_posix(), digest_of_file(path)) for path in files]
    )


def check_no_code(folder: Path) -> None:
    """Raise CorgiError where a model folder would have the loader run its own program."""
    code = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    if code:
        raise CorgiError(
            f"{folder} holds program code: {', '.join(code)}",
            "give a folder with models alone; no code out of a model folder is run",
        )
