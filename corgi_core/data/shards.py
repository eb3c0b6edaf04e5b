"""WebDataset tar shards: `<key>.<png|jpg|…>` beside `<key>.txt` (one caption) or `<key>.json`.

Precomputed embeddings are `<key>.npy`, without an image (see `vectors`).
The same samples give byte-identical shards: members are sorted by key within their shard and carry
no time, user or mode of their own.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import Image
from upath import UPath

from corgi_core.data.plain_files import jpeg_size
from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file, read_ranges

CAPTION_SUFFIXES = ("txt", "json")
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # how every PNG begins, before its width


class Origin(NamedTuple):
    """Where an image lies in a tar that was there before."""

    tar: Path | UPath
    member: str  # its name in the tar
    start: int  # of its bytes, in the tar as it is when unpacked
    size: int  # in bytes


@dataclass(frozen=True)
class Sample:
    """One image as a reader found it; the bytes are the file's own."""

    key: str  # unique; no dot in its last part, where WebDataset would cut it
    image: bytes
    captions: list[str] | None  # None: image-only
    split: str | None  # "train", "validation", "test"; None: by a hash of the group
    source: str  # where it comes from, with its licence where known
    group: str  # images of one group are never in two splits
    suffix: str = "png"  # the image file's extension: lower case, no dot
    origin: Origin | None = field(default=None, compare=False)  # of readers of tars

    @cached_property
    def sha256(self) -> str:
        """Of the image file, in hexadecimal."""
        return hashlib.sha256(self.image).hexdigest()


def write_shard(path: Path | UPath, samples: Iterable[Sample]) -> int:
    """Write one tar of `samples`, which are sorted by key; whole or not at all.

    Returns its size in bytes. Raises CorgiError for keys that a tar could not tell apart.
    """
    keys: set[str] = set()
    with atomic_file(path) as temporary:
        with (
            temporary.open("wb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for sample in samples:
                _check_key(sample, keys)
                _add(tar, f"{sample.key}.{sample.suffix}", sample.image)
                _add_captions(tar, sample)
        return int(temporary.stat().st_size)


def read_shard(file: BinaryIO) -> Iterator[tuple[str, str, bytes]]:
    """(key, suffix, bytes) of every image of an open tar, in its order; captions are skipped."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for key, suffix, member in _images_of(tar):
            extracted = tar.extractfile(member)
            assert extracted is not None
            yield key, suffix, extracted.read()


def image_members(file: BinaryIO) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """(key, suffix, member) of every image of an open tar, in its order; no image is read."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        yield from _images_of(tar)


def _images_of(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    for member in tar:
        key, suffix = split_name(member.name)
        if member.isfile() and suffix not in CAPTION_SUFFIXES:
            yield key, suffix, member


def read_members(
    path: Path | UPath, names: Iterable[str], ranges: Sequence[tuple[int, int]]
) -> Iterator[tuple[str, bytes]]:
    """(suffix, bytes) of members of a tar, from their ranges alone, in the given order.

    Args:
        path: The tar, uncompressed.
        names: The members' names in it.
        ranges: Of each the start and the size in bytes.

    Raises:
        OSError: The tar ends before a member does.
    """
    for name, (_, size), content in zip(names, ranges, read_ranges(path, ranges), strict=True):
        if len(content) < size:
            raise OSError(f"it ends within {name}")
        yield split_name(name)[1].rpartition(".")[2], content


def split_name(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key ends at the first dot of the name's last part."""
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, _, suffix = last.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def header_size(image: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels as the file's header says; None when it cannot be read."""
    if image.startswith(_PNG) and len(image) >= 24:  # many times as fast as Pillow
        width, height = struct.unpack(">II", image[16:24])
        return (width, height) if 0 < width < 1 << 31 and 0 < height < 1 << 31 else None
    if (size := jpeg_size(image)) is not None:  # likewise
        return size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(image)) as opened:
                return opened.size
    except Exception:  # Pillow's parsers raise whatever the damage makes them raise
        return None


def row_of(sample: Sample, shard: str) -> dict[str, Any]:
    """The manifest's row of a sample in that shard."""
    width, height = header_size(sample.image) or (None, None)
    return {
        "key": sample.key,
        "shard": shard,
        "sha256": sample.sha256,
        "width": width,
        "height": height,
        "captions": sample.captions,
        "split": sample.split,
        "source": sample.source,
        "group": sample.group,
    }


def two_images(key: str) -> CorgiError:
    """The error of a key that two images have."""
    return CorgiError(f"two images have the key {key!r}", "rename one of the files")


def _check_key(sample: Sample, keys: set[str]) -> None:
    if sample.key in keys:
        raise two_images(sample.key)
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
