"""WebDataset tar shards: `<key>.<png|jpg|…>` beside `<key>.txt` (one caption) or `<key>.json`.

Precomputed embeddings are `<key>.npy`, without an image (see `vectors`).
The same samples give byte-identical shards: members are sorted by key within their shard and carry
no time, user or mode of their own.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from upath import UPath

from corgi_core.errors import CorgiError

CAPTION_SUFFIXES = ("txt", "json")


@dataclass(frozen=True)
class Sample:
    """One image as a reader found it; the bytes are the file's own."""

    key: str  # unique; no dot in its last part, where WebDataset would cut it
    image: bytes
    captions: list[str] | None  # None: image-only
    split: str | None  # "train", "test", or None: by a hash of the group
    source: str  # where it comes from, with its licence where known
    group: str  # images of one group are never in both splits
    suffix: str = "png"  # the image file's extension: lower case, no dot


def write_shards(
    folder: Path | UPath, samples: Iterable[Sample], shard_size: int
) -> list[dict[str, Any]]:
    """Write `<folder>/shards/00000.tar`, … of `shard_size` images each, in the samples' order.

    Returns the manifest's rows. Holds one shard in memory at a time.
    """
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    keys: set[str] = set()
    stream = iter(samples)
    while shard := sorted(islice(stream, shard_size), key=lambda sample: sample.key):
        name = f"{len(rows) // shard_size:05d}"
        with (
            (folder / "shards" / f"{name}.tar").open("wb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for sample in shard:
                _check_key(sample, keys)
                _add(tar, f"{sample.key}.{sample.suffix}", sample.image)
                _add_captions(tar, sample)
                rows.append(_row(sample, name))
    return rows


def read_shard(file: BinaryIO) -> Iterator[tuple[str, str, bytes]]:
    """(key, suffix, bytes) of every image of an open tar, in its order; captions are skipped."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            key, suffix = split_name(member.name)
            if member.isfile() and suffix not in CAPTION_SUFFIXES:
                extracted = tar.extractfile(member)
                assert extracted is not None
                yield key, suffix, extracted.read()


def split_name(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key ends at the first dot of the name's last part."""
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, _, suffix = last.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def header_size(image: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels as the file's header says; None when it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(image)) as opened:
                return opened.size
    except Exception:  # Pillow's parsers raise whatever the damage makes them raise
        return None


def _row(sample: Sample, shard: str) -> dict[str, Any]:
    width, height = header_size(sample.image) or (None, None)
    return {
        "key": sample.key,
        "shard": shard,
        "sha256": hashlib.sha256(sample.image).hexdigest(),
        "width": width,
        "height": height,
        "captions": sample.captions,
        "split": sample.split,
        "source": sample.source,
        "group": sample.group,
    }


def _check_key(sample: Sample, keys: set[str]) -> None:
    if sample.key in keys:
        raise CorgiError(f"two images have the key {sample.key!r}", "rename one of the files")
    last = sample.key.rpartition("/")[2]
    illegal = any(unicodedata.category(character) in ("Cc", "Cs") for character in sample.key)
    if not last or "." in last or illegal:
        raise CorgiError(
            f"the key {sample.key!r} is empty, or holds a dot or a control character",
            "rename the file",
        )
    keys.add(sample.key)


def _add_captions(tar: tarfile.TarFile, sample: Sample) -> None:
    if sample.captions is None:
        return
    if len(sample.captions) == 1:
        _add(tar, f"{sample.key}.txt", sample.captions[0].encode())
    else:
        record = {"captions": sample.captions}
        _add(tar, f"{sample.key}.json", json.dumps(record, ensure_ascii=False).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # its time, user and group are zero, its mode 0644
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
