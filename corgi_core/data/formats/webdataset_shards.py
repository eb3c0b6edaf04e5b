"""WebDataset tar shards: the files of one image stand together and share the name's first part.

Captions are in `<key>.txt`, or in `<key>.json` under "text", "caption" or "captions". A shard or a
folder called train…, test… or val… gives the split; val counts as test.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from braceexpand import braceexpand
from upath import UPath

from corgi_core.data.formats.conventions import (
    IMAGE_SUFFIXES,
    caption_column_of,
    captions_in,
    split_among,
)
from corgi_core.data.shards import Sample, split_name
from corgi_core.errors import CorgiError

Members = Iterator[tuple[str, str, bytes]]  # (key, suffix, content)


def read(path: Path | UPath | None, caption_column: str | None = None) -> Iterator[Sample]:
    """Every image of the shards at `path`, in the shards' order.

    `path`: one tar, a folder of them, or a pattern such as "train-{000..099}.tar" or "*.tar".
    A key that an earlier shard had is preceded by its own shard's name.
    """
    seen: set[str] = set()
    fields: set[str] = set()  # of all JSON records
    for shard in _shards(path):
        stem = shard.name.partition(".")[0]
        split = split_among([*shard.parent.parts[-2:], re.split("[^A-Za-z]", stem)[0]])
        for key, members in groupby(_members(shard), key=lambda member: member[0]):
            files = {suffix: content for _, suffix, content in members}
            suffix = next((suffix for suffix in files if suffix in IMAGE_SUFFIXES), None)
            if suffix is None:
                continue
            unique = f"{stem}/{key}" if key in seen else key
            seen.add(unique)
            captions = _captions(files, caption_column, fields, f"{shard}: {key}.json")
            yield Sample(unique, files[suffix], captions, split, shard.parent.name, unique, suffix)
    if caption_column is not None and caption_column not in fields:
        present = f"their JSON has {', '.join(sorted(fields))}" if fields else "they hold no JSON"
        raise CorgiError(
            f"the shards at {path} have no caption column {caption_column!r}; {present}",
            "name the field that holds the captions by --caption-column",
        )


def _shards(path: Path | UPath | None) -> list[Path | UPath]:
    if path is None:
        raise CorgiError("no shards are named", "name a tar, a folder of tars or a pattern")
    if path.is_dir():
        groups: list[Iterable[Path | UPath]] = [path.rglob("*.tar")]
    elif path.exists():
        groups = [[path]]
    else:
        groups = [path.parent.glob(name) for name in braceexpand(path.name)]
    shards: list[Path | UPath] = []
    for group in groups:
        found = sorted(group, key=str)
        if not found:
            raise CorgiError(f"there are no tar shards at {path}, or not all of them", "check it")
        shards += found
    return shards


def _members(shard: Path | UPath) -> Members:
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r|*") as tar:
            for member in tar:
                key, suffix = split_name(member.name)
                content = tar.extractfile(member)
                if content is not None and not key.endswith("/") and key:
                    yield key, suffix, content.read()
    except tarfile.TarError as error:
        raise CorgiError(
            f"{shard} is not a whole tar file ({error})", "copy or download it again"
        ) from error


def _captions(
    files: dict[str, bytes], caption_column: str | None, fields: set[str], where: str
) -> list[str] | None:
    """One image's captions; bytes that are not UTF-8 become U+FFFD, for the gate to see."""
    if "txt" in files and caption_column is None:
        return [files["txt"].decode("utf-8", errors="replace")]
    if "json" not in files:
        return None
    try:
        record = dict(json.loads(files["json"].decode("utf-8", errors="replace")))
    except (ValueError, TypeError) as error:
        raise CorgiError(f"{where} is not a JSON object ({error})", "correct that file") from error
    fields.update(record)
    column = caption_column_of(record, caption_column)
    return None if column is None else captions_in(record, column)
