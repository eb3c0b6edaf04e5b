"""What formats of image-caption data have in common: suffixes, split names, captions, keys."""

from __future__ import annotations

import ast
import codecs
import json
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from corgi_core.data.splits import TEST, TRAIN, VALIDATION

# What people take for an image; the quality gate says of each whether it can be decoded.
IMAGE_SUFFIXES = frozenset((
    "png", "apng", "jpg", "jpeg", "jpe", "jfif", "mpo", "webp", "gif", "bmp", "dib", "tif", "tiff",
    "ppm", "pgm", "pbm", "pnm", "pfm", "avif", "ico", "tga", "qoi", "jp2", "j2k", "jpx",
    "heic", "heif", "jxl",
))  # fmt: skip
CAPTION_SUFFIXES = ("txt", "caption", "json")  # of a file with one image's captions, beside it
UNREADABLE, NOT_WHOLE = "cannot be read", "not a whole tar"  # reasons that can pass
TABLE_SUFFIXES = ("csv", "tsv", "json", "jsonl", "ndjson", "parquet")
CAPTION_COLUMNS = (  # looked for in this order, in any case
    "text", "caption", "captions", "prompt", "texts", "prompts", "sentence", "sentences",
    "description", "raw",
)  # fmt: skip
# How tables write a missing value: pandas' and Python's spellings.
_MISSING = frozenset(
    ("nan", "NaN", "NAN", "None", "null", "NULL", "<NA>", "NaT", "inf", "-inf", "Inf", "-Inf")
)
_SPLITS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}  # fmt: skip
_SPLIT_NAME = re.compile(r"([a-z]+?)(?:[-_ ]?(?:\d+|set|split|data|images|shards))?")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Skipped:
    """What a reader passed over: a file, a folder, or a row or caption in a file."""

    path: str  # relative to the data's root, with the line or the key where there is one
    reason: str  # one of a few, so that they can be counted
    detail: str = ""


def can_pass(reason: str) -> bool:
    """Whether what was passed over for this reason may be readable another time."""
    return reason == NOT_WHOLE or UNREADABLE in reason


class Captions(NamedTuple):
    """The captions of a record, and what is wrong with those that could not be read."""

    texts: list[str] | None  # None: the record has no caption
    fault: str | None = None


def split_among(names: Iterable[str]) -> str | None:
    """The split that the first telling one of some folders' names means; None if none does.

    "train", "train2017", "train_set" and "training" are the training split; "val", "valid", "dev"
    and "validation" the validation split; "test" and "testing" the test split.
    """
    return next((_SPLITS[word] for name in names if (word := _split_word(name)) in _SPLITS), None)


def _split_word(name: str) -> str:
    match = _SPLIT_NAME.fullmatch(name.lower())
    return match[1] if match else ""


def column_among(columns: Iterable[str], wanted: Iterable[str]) -> str | None:
    """The first of the `wanted` columns that is there, in whatever case; None if none is."""
    present = {column.strip().casefold(): column for column in reversed(list(columns))}
    return next((present[name.casefold()] for name in wanted if name.casefold() in present), None)


def caption_column_of(columns: Iterable[str], wanted: str | None) -> str | None:
    """The column that holds the captions: `wanted`, or the first usual one; None if not there."""
    columns = list(columns)
    if wanted in columns:
        return wanted
    return column_among(columns, CAPTION_COLUMNS if wanted is None else (wanted,))


def captions_in(value: Any) -> Captions:
    """The captions in a value: a text, or a list or a record of texts, at any depth.

    A record {"raw": "a cat", …} stands for its text; other records have none. So does a text that
    writes out a list or a record, as tables of texts do. Numbers that are not finite, and the words
    that tables write for missing values, are no captions.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return Captions(None)
    if isinstance(value, bytes):
        value = text_of(value)
    if isinstance(value, str):
        text = value.strip()
        if (written := _parsed(text)) is not None:
            return captions_in(written)
        return Captions(None if text in _MISSING else [value])
    if isinstance(value, int) and not isinstance(value, bool):
        return Captions([str(value)])
    if isinstance(value, Mapping):
        column = caption_column_of([name for name in value if isinstance(name, str)], None)
        if column is not None:
            return captions_in(value[column])
        return Captions(None, f"a caption is a record of {', '.join(map(str, value)) or 'nothing'}")
    if isinstance(value, list | tuple):
        found = [captions_in(item) for item in value]
        texts = [text for captions in found for text in captions.texts or []]
        fault = next((captions.fault for captions in found if captions.fault), None)
        return Captions(texts or None, fault)
    return Captions(None, f"a caption is a {type(value).__name__}")


def captions_in_json(text: str, column: str | None, fields: set[str] | None = None) -> Captions:
    """The captions in one image's JSON: a record with a caption column, or the captions themselves.

    Args:
        text: The JSON.
        column: The record's caption column; None for the usual ones.
        fields: Where to note the record's fields.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Captions(None, f"not JSON ({error})")
    if not isinstance(value, dict):
        return captions_in(value) if column is None else Captions(None)
    if fields is not None:
        fields.update(value)
    found = caption_column_of(value, column)
    return Captions(None) if found is None else captions_in(value[found])


def _parsed(text: str) -> list[Any] | dict[Any, Any] | None:
    """The list or record that a text writes out, as tables write them; None for a plain text."""
    if text[:1] + text[-1:] in ("[]", "{}"):
        for parse in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                value = parse(text)
                if isinstance(value, list | dict):
                    return value
    return None


def text_of(content: bytes) -> str:
    """Bytes as text, by their byte order mark or else as UTF-8.

    What is not valid becomes U+FFFD, which the quality gate finds.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    return content.decode("utf-8", errors="replace")


def numbered_lines(content: bytes) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, each with its number from 1."""
    lines = re.split(r"\r\n|\r|\n", text_of(content))
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def shortened(value: object) -> str:
    """A value as it is quoted in a report: its first 80 characters."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
