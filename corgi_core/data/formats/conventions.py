"""What formats of image-caption data have in common: suffixes, split names, caption columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# What a person takes for an image; the gate says of each whether it can be read.
IMAGE_SUFFIXES = frozenset(
    ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif", "heic", "jp2")
)
CAPTION_COLUMNS = ("text", "caption", "captions")  # looked for in this order
_SPLITS = {"train": "train"} | dict.fromkeys(("test", "val", "valid", "validation", "dev"), "test")


def split_among(names: Iterable[str]) -> str | None:
    """The split that the first telling one of some folders' names means; None if none does."""
    return next((_SPLITS[name.lower()] for name in names if name.lower() in _SPLITS), None)


def caption_column_of(columns: Iterable[str], wanted: str | None) -> str | None:
    """The column that holds the captions: `wanted`, or the first usual one; None if not there."""
    present = set(columns)
    choices = CAPTION_COLUMNS if wanted is None else (wanted,)
    return next((column for column in choices if column in present), None)


def captions_in(record: Mapping[str, Any], column: str) -> list[str] | None:
    """One record's captions: a text or a list of texts; None where there is nothing."""
    value = record.get(column)
    if value is None:
        return None
    texts = value if isinstance(value, list) else [value]
    return [str(caption) for caption in texts if caption is not None]
