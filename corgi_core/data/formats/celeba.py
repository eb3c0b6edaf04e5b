"""Multi-modal CelebA-HQ: numbered faces, each with ten captions in a text file of its number.

`images/27.jpg` (or `CelebA-HQ-img/27.jpg`) has the captions of `text/celeba-caption/27.txt`, one a
line. The release has its split as pickled lists, `train/filenames.pickle`; to unpickle is to run
whatever code the file holds, so they are not read. The same as text does: `train.txt`,
`test.txt` and `val.txt`, a number or a file's name a line. What no list names is for testing if
there is a train list and no test list; otherwise for training. Without any list Corgi splits, and
says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from upath import UPath

from corgi_core.data.formats.conventions import (
    IMAGE_SUFFIXES,
    Skipped,
    numbered_lines,
    split_among,
)
from corgi_core.data.formats.layouts import check_folder, wrong_folder
from corgi_core.data.formats.listed import ListedImages
from corgi_core.data.shards import Sample
from corgi_core.data.splits import SPLITS, TEST, TRAIN
from corgi_core.errors import CorgiError

SOURCE = "celeba-hq (non-commercial research)"
_TEXT = re.compile(r"(?:.+/)?celeba-caption/(\d+)\.txt")
# not those of masks and sketches, which are numbered too
_IMAGE = re.compile(
    rf"(?:.+/)?(?:images?|CelebA-HQ-img)/(\d+)\.(?:{'|'.join(IMAGE_SUFFIXES)})", re.IGNORECASE
)
_LIST = re.compile(r"(?:.+/)?(?:(train|val|test)|(train|val|test)/filenames)\.txt")
_PICKLE = re.compile(r"(?:.+/)?(train|val|test)/.+\.(pickle|pkl)")


def read(
    path: Path | UPath | None, caption_column: str | None = None
) -> Iterator[Sample | Skipped]:
    """Every face by its number, with its captions."""
    if caption_column is not None:
        raise CorgiError("CelebA-HQ has no caption column", "leave --caption-column out")
    root = check_folder(path, "celeba")
    images = ListedImages(root)
    texts, faces = _numbered(_TEXT, images), _numbered(_IMAGE, images)
    if not texts or not faces:
        lacking = "celeba-caption/ with numbered texts" if faces else "images/ with numbered images"
        raise wrong_folder(root, "celeba", f"holds no {lacking}")
    yield from images.skipped
    splits: dict[int, str] = {}
    lists = [name for name in images.files if _LIST.fullmatch(name)]
    yield from _read_splits(lists, images, faces, splits)
    used = {*lists, *(name for name in images.files if _TEXT.fullmatch(name))}
    for number, (face, *more_faces) in sorted(faces.items()):
        named = texts.pop(number, [])
        for name in (*more_faces, *named[1:]):
            yield Skipped(name, "another file of that number", f"beside {face}")
        captions = images.captions(named[0] if named else None, f"text/celeba-caption/{number}.txt")
        if captions.fault:
            yield Skipped(face, "an image without captions", captions.fault)
        yield images.sample(face, face, captions.texts, splits.get(number), SOURCE)
        used.update(more_faces)
    for name in (name for names in texts.values() for name in names):
        yield Skipped(name, "captions without an image of that number")
    for name in images.files:
        if match := _PICKLE.fullmatch(name):
            used.add(name)
            remedy = f"write its names into {match[1]}.txt, one a line"
            yield Skipped(name, "a pickled list, which is not read", remedy)
    yield from images.others(used)


def _numbered(pattern: re.Pattern[str], images: ListedImages) -> dict[int, list[str]]:
    """The files that match, by their number."""
    found: dict[int, list[str]] = {}
    for name in images.files:
        if match := pattern.fullmatch(name):
            found.setdefault(int(match[1]), []).append(name)
    return found


def _read_splits(
    lists: list[str], images: ListedImages, faces: dict[int, list[str]], splits: dict[int, str]
) -> Iterator[Skipped]:
    """Add the split of every number to `splits`, if there is a list."""
    listed: dict[str, list[str]] = {}  # the lists of each split
    for name in lists:
        match = _LIST.fullmatch(name)
        assert match is not None
        split = split_among([match[1] or match[2]])
        assert split is not None
        listed.setdefault(split, []).append(name)
    for split in sorted(listed, key=SPLITS.index):
        for name in listed[split]:
            for position, line in numbered_lines(images.files[name].read_bytes()):
                where, number = f"{name}, line {position}", _number_in(line)
                if number not in faces:
                    yield Skipped(where, "names no image that is there", line)
                elif splits.setdefault(number, split) != split:
                    yield Skipped(
                        where, "is in two lists", f"{line} is in the split {splits[number]}"
                    )
    if not listed:
        remedy = (
            "so Corgi splits; write train.txt and test.txt, a name a line, for a split of yours"
        )
        yield Skipped("train.txt", "a list that is not there", remedy)
    elif not {TRAIN, TEST} <= listed.keys():
        other = TEST if TRAIN in listed else TRAIN
        splits.update({number: other for number in faces if number not in splits})


def _number_in(line: str) -> int:
    """The number of a face by its name in a list: 27 of "27", "27.jpg" or "images/27.jpg"."""
    match = re.fullmatch(r"(?:.*/)?(\d+)(?:\.\w+)?", line)
    return int(match[1]) if match else -1
