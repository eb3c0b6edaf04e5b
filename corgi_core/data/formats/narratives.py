"""Localized Narratives: `coco_train_captions.jsonl` and the like, with the images beside.

A line is one person's description of one image: `dataset_id`, `image_id` and `caption`. The full
files, `…_localized_narratives-00000-of-00004.jsonl`, have the mouse's trace too and are read
alike. An image has all its descriptions, in the files' order. COCO's ids are numbers, whose files
are `train2017/000000000139.jpg`; those of Open Images, Flickr30k and ADE20k are the files' names.
The split is the one that `dataset_id` says, such as "mscoco_val2017", or else the file's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
from corgi_core.data.shards import Sample

LICENCE = "captions CC-BY-4.0"
_FILE = re.compile(r".+_(captions|localized_narratives)(-\d+-of-\d+)?\.jsonl", re.IGNORECASE)


class _Narrated(NamedTuple):
    """One image's descriptions."""

    where: str  # of the first: "coco_val_captions.jsonl, line 1"
    dataset: str
    split: str | None
    captions: list[str]


def read(
    path: Path | UPath | None, caption_column: str | None = None
) -> Iterator[Sample | Skipped]:
    """Every image that a line of the files below `path` describes, in the lines' order."""
    root = check_folder(path, "narratives")
    images = ListedImages(root)
    files = [name for name in images.files if _FILE.fullmatch(name.rpartition("/")[2])]
    if not files:
        raise wrong_folder(root, "narratives", "holds no …_captions.jsonl")
    if not images.has_images():
        raise wrong_folder(root, "narratives", "holds narratives and no images")
    yield from images.skipped
    narrated: dict[str, _Narrated] = {}  # by image
    fields: set[str] = set()
    for name in files:
        yield from _read_lines(name, images, narrated, caption_column or "caption", fields)
    if caption_column is not None and caption_column not in fields:
        raise no_such_column(root, caption_column, fields)
    for image, (where, dataset, split, captions) in narrated.items():
        source = f"{_without_split(dataset)} ({LICENCE})"
        yield images.sample(image, where, list(dict.fromkeys(captions)), split, source)
    yield from images.others(files)


def _read_lines(
    name: str,
    images: ListedImages,
    narrated: dict[str, _Narrated],
    column: str,
    fields: set[str],
) -> Iterator[Skipped]:
    """Add the descriptions of one file to those of the others; yields the lines passed over."""
    with images.files[name].open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{name}, line {number}"
            try:
                record = json.loads(text_of(line))
            except (ValueError, RecursionError) as error:
                yield Skipped(where, "not a JSON object", str(error))
                continue
            if not isinstance(record, dict):
                yield Skipped(where, "not a JSON object", f"it is a {type(record).__name__}")
                continue
            fields.update(record)
            identity = "" if (value := record.get("image_id")) is None else str(value).strip()
            dataset = str(record.get("dataset_id"))
            texts, fault = captions_in(record.get(column))
            image = images.found(*_names_of(identity, dataset)) if identity else None
            if not identity:
                yield Skipped(where, "row without image_id", shortened(record))
            elif texts is None:
                yield Skipped(where, "unusable caption", fault or f"image {identity} has none")
            elif image is None:
                detail = f"{identity} of {dataset}: download it into a folder beside the file"
                yield Skipped(where, "names no image that is there", detail)
            else:
                split = split_among([*re.split(r"[\W_]+", dataset), *re.split(r"[\W_]+", name)])
                narrated.setdefault(image, _Narrated(where, dataset, split, []))
                narrated[image].captions.extend(texts)


def _names_of(identity: str, dataset: str) -> list[str]:
    """What an image may be called, the surest first."""
    folder = dataset.rpartition("_")[2]
    names = [identity.zfill(12)] if dataset.startswith("mscoco") else [identity]
    return [f"{folder}/{names[0]}", *names]


def _without_split(dataset: str) -> str:
    """The collection: "mscoco" of "mscoco_train2017"."""
    parts = [part for part in dataset.split("_") if split_among([part]) is None]
    return "_".join(parts) or dataset
