"""WebDataset tar shards: the files of one image share the name's part before its first dot.

Captions are in `<key>.txt`, or in `<key>.json` under "text", "caption", "TEXT", …; members may be
in any order, and links within the tar are followed. A shard or a folder called train…, val… or
test… gives the split.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NamedTuple, cast

from braceexpand import braceexpand
from upath import UPath

from corgi_core.data.formats.conventions import (
    IMAGE_SUFFIXES,
    NOT_WHOLE,
    UNREADABLE,
    Captions,
    Skipped,
    captions_in_json,
    split_among,
    text_of,
)
from corgi_core.data.formats.layouts import no_such_column
from corgi_core.data.formats.walk import files_below, is_wanted
from corgi_core.data.shards import Origin, Sample, split_name
from corgi_core.errors import CorgiError
from corgi_core.io.files import is_local
from corgi_core.io.read_errors import is_no_fault_of_the_file

_TAR = re.compile(r".+\.(tar|tgz|tar\.(gz|bz2|xz))", re.IGNORECASE)
_COMPRESSIONS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file)),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}

COMPRESSED = tuple(_COMPRESSIONS)  # how such files begin

Members = dict[str, tarfile.TarInfo]  # one sample's, by suffix: "jpg", "txt", …


class _Image(NamedTuple):
    """One image of a sample."""

    key: str
    member: tarfile.TarInfo
    suffix: str
    captions: tarfile.TarInfo | None
    group: str


def read(
    path: Path | UPath | None, caption_column: str | None = None
) -> Iterator[Sample | Skipped]:
    """Every image of the shards at `path`, in the shards' order.

    `path`: one tar, a folder of them, or a pattern such as "train-{000..099}.tar" or "*/*.tar".
    Where shards lie in several folders, the folder is part of the key; a key that an earlier shard
    had is preceded by its own shard's name. Of several shards, one that cannot be read or is not a
    whole tar is passed over.
    """
    shards, skipped = shards_at(path)
    yield from skipped
    tars = TarReader(caption_column)
    for folder, shard in shards:
        name = tar_name(folder, shard)
        if not is_wanted(name):
            continue
        try:
            yield from tars.samples(folder, shard)
        except (TornTarError, OSError) as error:
            full = isinstance(error, OSError) and error.errno == errno.ENOSPC
            if full or len(shards) == 1 or is_no_fault_of_the_file(error):
                raise
            torn = isinstance(error, TornTarError)
            yield Skipped(name, NOT_WHOLE if torn else UNREADABLE, str(error))
    tars.check_column(path)


def tar_name(folder: str, shard: Path | UPath) -> str:
    """A shard's path below the data's root, as far as `shards_at` says it."""
    return f"{folder}/{shard.name}" if folder else shard.name


class TornTarError(CorgiError):
    """A tar that was cut, or is none."""


class TarReader:
    """Reads the samples of one shard after the other.

    Attributes:
        fields: Those of all JSON records that were read.
    """

    def __init__(self, caption_column: str | None, refuse_repeated: bool = True) -> None:
        """Say where captions are, and whether a shard that has a key twice is refused.

        It is read otherwise, without the second files of that key.
        """
        self.fields: set[str] = set()
        self._column, self._refuse_repeated = caption_column, refuse_repeated
        self._keys: set[str] = set()
        self._any = False

    def samples(self, folder: str, shard: Path | UPath) -> Iterator[Sample | Skipped]:
        """Every image of a shard that lies in `folder`, which is part of the keys if not empty."""
        stem = shard.name.partition(".")[0]
        split = split_among([*shard.parent.parts[-2:], re.split("[^A-Za-z]", stem)[0]])
        split_folder = split_among([shard.parent.name]) is not None
        source = shard.parent.parent.name if split_folder else shard.parent.name
        name = tar_name(folder, shard)
        for found in _images(shard, name, self._column, self.fields, self._refuse_repeated):
            if isinstance(found, Skipped):
                yield found
                continue
            image, content, texts, span = found
            key = _unique([folder, stem], image.key, self._keys)
            group = key.removesuffix(image.key) + image.group
            origin = span and Origin(shard, image.member.name, *span)
            yield Sample(key, content, texts, split, source, group, image.suffix, origin)
            self._any = True

    def check_column(self, path: Path | UPath | None) -> None:
        """Raise CorgiError where images were read and none has the caption column in its JSON."""
        if self._any and self._column is not None and self._column not in self.fields:
            raise no_such_column(path, self._column, self.fields)


def _unique(parts: list[str], key: str, keys: set[str]) -> str:
    """The key below its folder; below its shard's name too where an earlier shard has it."""
    folder, stem = parts
    for above in (folder, f"{folder}/{stem}" if folder else stem):
        unique = f"{above}/{key}" if above else key
        if unique not in keys:
            break
    keys.add(unique)
    return unique


def shards_at(path: Path | UPath | None) -> tuple[list[tuple[str, Path | UPath]], list[Skipped]]:
    """The tars, each with its folder's name where there are several folders."""
    if path is None:
        raise CorgiError("no shards are named", "name a tar, a folder of tars or a pattern")
    skipped: list[Skipped] = []
    if path.is_dir():
        shards = _tars_below(path, skipped)
    elif path.exists():
        shards = [path]
    else:
        shards = []
        for pattern in _expanded(str(path)):
            found = _matching(path, pattern, skipped)
            if not found:
                raise CorgiError(
                    f"there are no tar shards at {path}, or not all of them", "check the path"
                )
            shards += found
    if not shards:
        raise CorgiError(f"there are no tar shards at {path}", "check the path")
    parents = [shard.parent.as_posix() for shard in shards]
    if len(set(parents)) == 1:
        return [("", shard) for shard in shards], skipped
    common = os.path.commonpath(parents)
    folders = [parent.removeprefix(common).strip("/") for parent in parents]
    return list(zip(folders, shards, strict=True)), skipped


def _tars_below(folder: Path | UPath, skipped: list[Skipped]) -> list[Path | UPath]:
    files, passed_over = files_below(folder)
    skipped += passed_over
    skipped += [Skipped(name, "not a tar") for name in files if not _TAR.fullmatch(name)]
    return [file for name, file in files.items() if _TAR.fullmatch(name)]


def _expanded(pattern: str) -> list[str]:
    try:
        return list(braceexpand(pattern))
    except ValueError as error:
        raise CorgiError(
            f"the pattern {pattern!r} has a brace without its other one",
            "close it, as in train-{000..099}.tar",
        ) from error


def _matching(path: Path | UPath, pattern: str, skipped: list[Skipped]) -> list[Path | UPath]:
    """The tars that a pattern without braces matches, sorted; a folder means its tars."""
    whole = type(path)(pattern) if not isinstance(path, UPath) else UPath(pattern)
    parts = whole.parts
    magic = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    if magic == len(parts):
        if whole.is_dir():
            return _tars_below(whole, skipped)
        return [whole] if whole.exists() else []
    root = whole
    for _ in parts[magic:]:
        root = root.parent
    found: list[Path | UPath] = sorted(root.glob("/".join(parts[magic:])), key=str)
    return [shard for entry in found
            for shard in (_tars_below(entry, skipped) if entry.is_dir() else [entry])]  # fmt: skip


@contextmanager
def _opened(shard: Path | UPath) -> Iterator[tarfile.TarFile]:
    """The shard, open for reading in any order: a remote or compressed one by a temporary copy."""
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(shard.open("rb"))
        start = file.read(6)
        file.seek(0)
        compression = next(
            (c for magic, c in _COMPRESSIONS.items() if start.startswith(magic)), None
        )
        if compression is not None or not is_local(shard):
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(compression(file) if compression else file, copy)
            copy.seek(0)
            file = copy
        tar = stack.enter_context(tarfile.open(fileobj=file, mode="r:"))
        yield tar


def _all_members(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Every member; a TarError where the tar is cut within a header, which tarfile passes over."""
    members = tar.getmembers()
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    rest = tar.fileobj.read(tarfile.BLOCKSIZE)
    if 0 < len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
        raise tarfile.ReadError("unexpected end of data")
    return members


def _images(
    shard: Path | UPath,
    name: str,
    caption_column: str | None,
    fields: set[str],
    refuse_repeated: bool,
) -> Iterator[tuple[_Image, bytes, list[str] | None, tuple[int, int] | None] | Skipped]:
    """Every image of a shard with its captions, and what is passed over, reported by `name`."""
    try:
        with _opened(shard) as tar:
            samples, skipped = _grouped(shard, name, _all_members(tar), refuse_repeated)
            yield from skipped
            for key, members in samples.items():
                images, others = _images_of(key, members, caption_column)
                where = f"{name}: {key}"
                if not images:
                    yield Skipped(where, "a sample without an image", ", ".join(members))
                for other in others:
                    yield Skipped(f"{where}.{other}", "another image of its sample")
                for image in images:
                    content = _content(tar, image.member)
                    if content is None:
                        yield Skipped(f"{name}: {image.member.name}", "a link out of the tar")
                        continue
                    captions = _captions(tar, image.captions, caption_column, fields)
                    if captions.fault:
                        assert image.captions is not None
                        file = f"{name}: {image.captions.name}"
                        yield Skipped(file, "unusable caption", captions.fault)
                    yield image, content, captions.texts, _span(tar, image.member)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's, not a decompressor's
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise TornTarError(
            f"{shard} is not a whole tar file ({why})", "copy or download it again"
        ) from error


def _grouped(
    shard: Path | UPath, name: str, members: list[tarfile.TarInfo], refuse_repeated: bool
) -> tuple[dict[str, Members], list[Skipped]]:
    """The members by key and suffix, in whatever order.

    Of a name that is there twice the second is passed over, or the whole is refused.
    """
    samples: dict[str, Members] = {}
    skipped: list[Skipped] = []
    last = ""
    for member in members:
        if member.isdir():
            continue
        key, suffix = split_name(member.name)
        if not key or key.endswith("/") or member.name.startswith("__MACOSX/"):
            skipped.append(Skipped(f"{name}: {member.name}", "hidden"))
            continue
        there = samples.setdefault(key, {})
        two_images = (
            key != last and suffix in IMAGE_SUFFIXES and not IMAGE_SUFFIXES.isdisjoint(there)
        )
        if (suffix in there or two_images) and not refuse_repeated:
            skipped.append(Skipped(f"{name}: {member.name}", "a key that is there before"))
            continue
        if suffix in there or two_images:
            raise CorgiError(
                f"{shard} holds the key {key!r} twice (at {member.name})",
                "rename one of the two, so that every image has its own key",
            )
        there[suffix] = member
        last = key
    return _joined(samples), skipped


def _joined(samples: dict[str, Members]) -> dict[str, Members]:
    """The samples, where images and captions lie in folders of their own joined by their name."""

    def has_image(key: str) -> bool:
        return any(suffix.rpartition(".")[2] in IMAGE_SUFFIXES for suffix in samples[key])

    alone: dict[str, list[str]] = {}  # keys of images without any other file, by last part
    for key, members in samples.items():
        if has_image(key) and len(members) == 1:
            alone.setdefault(key.rpartition("/")[2], []).append(key)
    for key in [key for key in samples if "/" in key and not has_image(key)]:
        images = alone.get(key.rpartition("/")[2], [])
        if len(images) == 1:
            samples[images[0]] |= samples.pop(key)
    return samples


def _images_of(
    key: str, members: Members, caption_column: str | None
) -> tuple[list[_Image], list[str]]:
    """The images of a sample with the members of their captions, and the images left over.

    `key.jpg` is the image where there is one; otherwise each `key.NAME.jpg` is, with `key.NAME.txt`
    or the sample's only caption. A caption column is looked for in JSON alone.
    """
    kinds = ("txt", "json") if caption_column is None else ("json",)
    plain = [suffix for suffix in members if suffix in IMAGE_SUFFIXES]
    named = [suffix for suffix in members if suffix.rpartition(".")[2] in IMAGE_SUFFIXES]
    captions = [suffix for suffix in members if suffix.rpartition(".")[2] in kinds]
    images = []
    for suffix in plain[:1] or named:
        name = suffix.rpartition(".")[0]
        own = [f"{name}.{kind}" if name else kind for kind in kinds]
        shared = captions if len(captions) == 1 or len(named) == 1 else kinds
        caption = next((c for c in (*own, *shared) if c in members), None)
        unique = f"{key}_{name.replace('.', '_')}" if name and len(named) > 1 else key
        group = unique if caption in own else key
        member = None if caption is None else members[caption]
        images.append(_Image(unique, members[suffix], suffix.rpartition(".")[2], member, group))
    return images, [suffix for suffix in named if plain and suffix != plain[0]]


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    """The bytes of a member, or of the one that it links to; None where that is not in the tar."""
    try:
        file = tar.extractfile(member)
    except (KeyError, RecursionError):
        return None
    return None if file is None else file.read()


def _span(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[int, int] | None:
    """Start and size of the bytes of a member that can be read; None where they are in parts."""
    while member.islnk() or member.issym():  # as `extractfile` does
        member = tar._find_link_target(member)  # type: ignore[attr-defined]
    return None if member.issparse() else (member.offset_data, member.size)


def _captions(
    tar: tarfile.TarFile, member: tarfile.TarInfo | None, column: str | None, fields: set[str]
) -> Captions:
    """The captions in a sample's text or JSON."""
    if member is None or (content := _content(tar, member)) is None:
        return Captions(None)
    text = text_of(content)
    if member.name.lower().endswith(".json"):
        return captions_in_json(text, column, fields)
    return Captions([text])
