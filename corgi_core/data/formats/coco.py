"""MS-COCO's captions: `annotations/captions_train2017.json` beside `train2017/`; 2014 likewise.

An annotation file is one JSON object of `images` (id, file_name, license), `annotations` (id,
image_id, caption) and `licenses` (id, name). An image's captions are in the order of the
annotations' ids; its source is "coco" with its licence. The file's name gives the split:
train…, val… or test…. The captions of COCO's test images are not published, so val… is the test
split where no test… is there, as in the papers, and a part of train… is for validation
(`corgi_core.data.splits`). The years share their photographs, each under one number: a photograph
that an earlier file had, training first, is not read again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from upath import UPath

from corgi_core.data.formats.conventions import (
    Skipped,
    captions_in,
    shortened,
    split_among,
    text_of,
)
from corgi_core.data.formats.layouts import check_folder, no_such_column, wrong_folder
from corgi_core.data.formats.listed import ListedImages
from corgi_core.data.formats.names import stem_of
from corgi_core.data.shards import Sample
from corgi_core.data.splits import TRAIN

_ANNOTATIONS = re.compile(r"(?:.+/)?captions_(\w+)\.json")
_PHOTOGRAPH = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})")

Record = dict[str, Any]


class _Image(NamedTuple):
    """One image of an annotation file."""

    where: str  # "annotations/captions_val2017.json, image 139"
    file_name: str
    licence: str | None


def read(
    path: Path | UPath | None, caption_column: str | None = None
) -> Iterator[Sample | Skipped]:
    """Every image that the annotation files below `path` list, training files first."""
    root = check_folder(path, "coco")
    images = ListedImages(root)
    tables = {name: match[1] for name in images.files if (match := _ANNOTATIONS.fullmatch(name))}
    if not tables:
        raise wrong_folder(root, "coco", "holds no captions_train2017.json or the like")
    if not images.has_images():
        raise wrong_folder(root, "coco", "holds annotations and no images")
    yield from images.skipped
    photographs: set[str] = set()
    fields: set[str] = set()
    for name in sorted(tables, key=lambda name: (split_among([tables[name]]) != TRAIN, name)):
        column = caption_column or "caption"
        yield from _read_file(name, tables[name], images, photographs, column, fields)
    yield from images.others(tables)
    if caption_column is not None and caption_column not in fields:
        raise no_such_column(root, caption_column, fields)


def _read_file(
    name: str,
    folder: str,
    images: ListedImages,
    photographs: set[str],
    column: str,
    fields: set[str],
) -> Iterator[Sample | Skipped]:
    """The images of one annotation file.

    Args:
        name: Its path below the root.
        folder: What its name ends in, such as "train2017".
        images: The images that are there.
        photographs: The numbers of those that were read; the file's are added.
        column: The captions' field in an annotation.
        fields: Where to note all fields of annotations.
    """
    try:
        whole = json.loads(text_of(images.files[name].read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        yield Skipped(name, "annotations that cannot be read", f"{error}; download them again")
        return
    if not (isinstance(whole, dict) and all(isinstance(whole.get(part), list)
                                            for part in ("images", "annotations"))):  # fmt: skip
        yield Skipped(name, "no annotations of COCO", "they have lists of images and annotations")
        return
    listed, skipped = _listed(name, whole)
    captions, more_skipped = _captions(name, whole["annotations"], listed, column, fields)
    del whole
    yield from (*skipped, *more_skipped)
    split = split_among([folder])
    for number, image in listed.items():
        file = images.found(f"{folder}/{image.file_name}", image.file_name)
        if file is None:
            remedy = f"{image.file_name}: download it into {folder}/"
            yield Skipped(image.where, "names no image that is there", remedy)
            continue
        photograph = _PHOTOGRAPH.fullmatch(stem_of(file).rpartition("/")[2])
        if photograph and photograph[1] in photographs:
            yield Skipped(image.where, "a photograph that an earlier file has", image.file_name)
            continue
        if photograph:
            photographs.add(photograph[1])
        source = f"coco ({image.licence})" if image.licence else "coco"
        yield images.sample(file, image.where, captions.get(number), split, source)


def _listed(name: str, whole: Record) -> tuple[dict[str, _Image], list[Skipped]]:
    """The images by their ids, and the records that are none."""
    licences = {
        str(licence.get("id")): str(licence.get("name") or licence.get("url"))
        for licence in whole.get("licenses") or []
        if isinstance(licence, dict)
    }
    listed: dict[str, _Image] = {}
    skipped = []
    for position, record in enumerate(whole["images"], start=1):
        where = f"{name}, image entry {position}"
        if not isinstance(record, dict) or record.get("id") is None:
            skipped.append(Skipped(where, "row without id", shortened(record)))
            continue
        number, where = str(record["id"]), f"{name}, image {record['id']}"
        file_name = record.get("file_name")
        if not isinstance(file_name, str) or not file_name.strip():
            skipped.append(Skipped(where, "row without file_name", shortened(record)))
        elif number in listed:
            skipped.append(Skipped(where, "an id that is there before", file_name))
        else:
            licence = record.get("license")
            known = None if licence is None else licences.get(str(licence), f"licence {licence}")
            listed[number] = _Image(where, file_name, known)
    return listed, skipped


def _captions(
    name: str, annotations: list[Any], listed: dict[str, _Image], column: str, fields: set[str]
) -> tuple[dict[str, list[str]], list[Skipped]]:
    """The captions by the ids of their images, in the order of their own ids."""
    captions: dict[str, list[str]] = {}
    skipped = []
    for position, note in sorted(enumerate(annotations, start=1), key=_by_id):
        where = f"{name}, annotation entry {position}"
        if not isinstance(note, dict):
            skipped.append(Skipped(where, "not a JSON object", shortened(note)))
            continue
        fields.update(note)
        where = f"{name}, annotation {note['id']}" if "id" in note else where
        number = str(note.get("image_id"))
        texts, fault = captions_in(note.get(column))
        if number not in listed:
            skipped.append(Skipped(where, "names no image that is listed", f"image_id {number}"))
        elif texts is None:
            skipped.append(Skipped(where, "unusable caption", fault or shortened(note)))
        else:
            captions.setdefault(number, []).extend(texts)
    return captions, skipped


def _by_id(numbered: tuple[int, Any]) -> tuple[bool, int]:
    """Sorts annotations by their ids; those without a number are last, as they are in the file."""
    number = numbered[1].get("id") if isinstance(numbered[1], dict) else None
    return (False, number) if isinstance(number, int) else (True, 0)
