"""Which file the evaluated captions are of: protocols of MS-COCO name it, and this checks it.

`captions_val2014.json` is known by what is public of it: 40,504 images, each named by its own
number, and 202,654 captions. Another file is taken by its SHA-256, for which its owner answers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corgi_core.data.quality import fault_of
from corgi_core.errors import CorgiError
from corgi_core.evaluation.held_out import HeldOut
from corgi_core.evaluation.protocol import VAL2014

IMAGES, CAPTIONS = 40_504, 202_654  # of VAL2014
NAMED_BY_NUMBER = "COCO_val2014_{:012d}.jpg"  # an image's file_name there
_NUMBER = re.compile(r"(\d{12})$")  # at the end of an image's key
_REMEDY = (
    f"take {VAL2014} from COCO's annotations_trainval2014.zip, or give the SHA-256 of the file "
    "that you mean as evaluation.captions_sha256"
)


def check_captions_file(path: Path, sha256: str | None, held_out: HeldOut) -> str:
    """The name of the file that evaluated captions are of, in an evaluation's protocol.

    Args:
        path: An annotation file of COCO.
        sha256: Of the file; None: it has to be `captions_val2014.json` as it was published.
        held_out: The images and captions that are evaluated.

    Raises:
        CorgiError: the file cannot be read, is another one, or has another first caption of an
            evaluated image, which the message names with file and field.
    """
    content = _content(path)
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise CorgiError(
            f"{path}: its SHA-256 is {found}, and evaluation.captions_sha256 is {sha256}",
            "give the digest of this file, or the file of that digest",
        )
    annotations = _annotations(path, content)
    if sha256 is None:
        _check_published(path, annotations)
    _check_same(path, annotations, held_out)
    return path.name if sha256 is not None else VAL2014


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorgiError(f"{path} cannot be read ({error.strerror})", _REMEDY) from error


def _annotations(path: Path, read: bytes) -> dict[str, Any]:
    try:
        content = json.loads(read)
    except (ValueError, RecursionError) as error:
        raise CorgiError(f"{path} holds no captions of COCO ({error})", _REMEDY) from error
    for field, numbers, others in (
        ("images", ("id",), ("file_name",)), ("annotations", ("id", "image_id"), ()),
    ):  # fmt: skip
        entries = content.get(field) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(
            isinstance(entry, dict)
            and entry.keys() >= {*numbers, *others}
            and all(type(entry[name]) is int for name in numbers)  # true is none
            for entry in entries
        ):
            wanted = " and ".join((*numbers, *others))
            raise CorgiError(
                f"{path}: {field} is no list of entries with {wanted}, ids being whole numbers",
                _REMEDY,
            )
    annotations: dict[str, Any] = content
    return annotations


def _check_published(path: Path, annotations: Mapping[str, Any]) -> None:
    """Raise CorgiError unless the file has what is known of `captions_val2014.json`."""
    images = {image["id"]: image["file_name"] for image in annotations["images"]}
    for field, found, published in (
        ("images", len(annotations["images"]), IMAGES),
        ("images.id", len(images), IMAGES),
        ("annotations", len(annotations["annotations"]), CAPTIONS),
        ("annotations.id", len({note["id"] for note in annotations["annotations"]}), CAPTIONS),
    ):
        if found != published:
            raise CorgiError(
                f"{path}: {field} has {found:,} different entries, and that of {VAL2014} has "
                f"{published:,}",
                _REMEDY,
            )
    for number, name in images.items():
        if name != NAMED_BY_NUMBER.format(number):
            raise CorgiError(
                f"{path}: images.file_name of {number} is {name!r}, which is no name of {VAL2014}",
                _REMEDY,
            )
    for note in annotations["annotations"]:
        if note["image_id"] not in images:
            raise CorgiError(
                f"{path}: annotations.image_id {note['image_id']} is that of no image", _REMEDY
            )


def _check_same(path: Path, annotations: Mapping[str, Any], held_out: HeldOut) -> None:
    """Raise CorgiError unless every evaluated caption is the first of its image in the file."""
    numbers = {number_of(key): key for key in held_out.keys}
    first: dict[int, tuple[Any, str]] = {}  # a caption with its id, by the image's
    for note in annotations["annotations"]:
        number, caption = note["image_id"], str(note.get("caption", ""))
        earlier = first.get(number)
        wanted = number in numbers and fault_of(caption) is None
        if wanted and (earlier is None or note["id"] < earlier[0]):
            first[number] = note["id"], " ".join(caption.split())
    for key, caption in zip(held_out.keys, held_out.captions, strict=True):
        number = number_of(key)
        found = None if number is None else first.get(number)
        if found is None or found[1] != caption:
            there = "has none" if found is None else f"has {found[1][:80]!r}"
            raise CorgiError(
                f"{path}: annotations.caption {there} as the first caption of {key}, whose "
                f"evaluated caption is {caption[:80]!r}",
                "ingest the images of this file with its captions alone, or leave "
                "evaluation.captions_file unset",
            )


def number_of(key: str) -> int | None:
    """The number of COCO's photograph in an image's key; None where there is none."""
    found = _NUMBER.search(key)
    return int(found[1]) if found else None
