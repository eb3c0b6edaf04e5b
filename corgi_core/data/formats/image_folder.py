"""A folder of images, with captions beside them in any of the usual ways.

- A table `metadata.csv` (or .tsv, .jsonl, .json, .parquet; also `captions.…`, in any case), at the
  top or in any folder below: one row an image, with `file_name` and `text`, as Hugging Face's
  imagefolder has it. COCO's annotations are such a table too.
- A file beside each image: `cat.txt`, `cat.caption` or `cat.json` for `cat.png`.

Folders called train, validation (or val, valid, dev) or test give the split.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from upath import UPath

from corgi_core.data.formats.conventions import (
    CAPTION_COLUMNS,
    CAPTION_SUFFIXES,
    IMAGE_SUFFIXES,
    TABLE_SUFFIXES,
    Captions,
    Skipped,
    caption_column_of,
    captions_in,
    captions_in_json,
    column_among,
    shortened,
    split_among,
    text_of,
)
from corgi_core.data.formats.names import ImageNames, key_of, stem_of, suffix_of
from corgi_core.data.formats.tables import FILE_COLUMNS, Row, rows_of
from corgi_core.data.formats.walk import Files, content_of, files_below, is_wanted, not_an_image
from corgi_core.data.shards import Sample
from corgi_core.errors import CorgiError

_METADATA = re.compile(r"metadata.*\.(csv|tsv|parquet|(nd)?json.*)", re.IGNORECASE)
_CAPTIONS = re.compile(
    r"(captions?|prompts?|annotations?)\b.*\.(csv|tsv|txt|parquet|(nd)?json.*)"
    r"|captions?_.*\.json|results\.csv",
    re.IGNORECASE,
)


def read(
    path: Path | UPath | None, caption_column: str | None = None
) -> Iterator[Sample | Skipped]:
    """Every image below `path`, by its path there; links to folders are followed."""
    if path is None or not path.is_dir():
        raise CorgiError(f"there is no folder {path}", "check the path")
    files, skipped = files_below(path)
    yield from skipped
    images = sorted(name for name in files if suffix_of(name) in IMAGE_SUFFIXES)
    captions = _CaptionFiles(path, files, images, caption_column)
    yield from captions.read_tables()
    stems = Counter(key_of(name) for name in images)
    for name in filter(is_wanted, images):
        content = content_of(name, files[name])
        if isinstance(content, Skipped):
            yield content
            continue
        found = captions.of(name)
        if found.fault:
            yield Skipped(name, "unusable caption", found.fault)
        key = key_of(name)
        yield Sample(
            key=key if stems[key] == 1 else f"{key}-{sha256(_bytes(name)).hexdigest()[:8]}",
            image=content,
            captions=found.texts,
            split=split_among(name.split("/")[:-1]),
            source=path.name,
            group=key,
            suffix=suffix_of(name),
        )
    yield from captions.unused()


def _is_metadata(name: str) -> bool:
    return _METADATA.fullmatch(name.rpartition("/")[2]) is not None


def _is_called_captions(name: str) -> bool:
    return _CAPTIONS.fullmatch(name.rpartition("/")[2]) is not None


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", errors="surrogatepass")


class _CaptionFiles:
    """The captions of all images: those of tables, else those of the file beside the image."""

    def __init__(
        self, root: Path | UPath, files: Files, images: list[str], caption_column: str | None
    ) -> None:
        self._root, self._files, self._column = root, files, caption_column
        self._images = ImageNames(root, images)
        self._by_image: dict[str, list[str] | None] = {}  # from the tables
        self._found_column = False
        stems = {stem_of(name) for name in images}
        self._tables = [
            name for name in sorted(files)
            if _is_metadata(name) or (_is_called_captions(name) and stem_of(name) not in stems)
        ]  # fmt: skip
        self._others = sorted(set(files) - set(images) - set(self._tables))
        self._used: set[str] = set()
        self._beside: dict[str, dict[str, str]] = {}  # by stem and suffix
        for name in self._others:
            if suffix_of(name) in CAPTION_SUFFIXES:
                self._beside.setdefault(stem_of(name), {})[suffix_of(name)] = name

    def read_tables(self) -> Iterator[Skipped]:
        """Read all tables; yields the rows that are passed over.

        Raises CorgiError where no row of a metadata file can be used, and where no file has the
        caption column that was asked for.
        """
        refused: list[CorgiError] = []
        for table in self._tables:
            skipped: list[Skipped] = []
            try:
                used = self._read_table(table, skipped)
            except CorgiError as error:
                if self._column is None and _is_metadata(table):
                    raise
                refused.append(error)
                yield Skipped(table, "no table of captions", error.problem)
                continue
            if skipped and not used and _is_metadata(table):
                first = skipped[0]
                raise CorgiError(
                    f"no row of {self._files[table]} can be used "
                    f"({first.path}: {first.reason}, {first.detail})",
                    "correct that file; its file_name is relative to it",
                )
            yield from skipped
        any_json = any("json" in beside for beside in self._beside.values())
        if self._column is not None and not self._found_column and not any_json:
            raise refused[0] if refused else CorgiError(
                f"{self._root} has no metadata.csv, .jsonl, .json, .tsv or .parquet to hold the "
                f"column {self._column!r}",
                f"add one with the columns file_name and {self._column}",
            )  # fmt: skip

    def _read_table(self, name: str, skipped: list[Skipped]) -> int:
        """Take the captions of a table's rows, and return how many rows were used."""
        rows = []
        for row in rows_of(self._files[name], name, self._images.holds):
            if isinstance(row, Skipped):
                skipped.append(row)
            else:
                rows.append(row)
        if not rows:
            return 0
        columns = self._columns(name, list(dict.fromkeys(c for row in rows for c in row.values)))
        faults = [self._take(row, name, *columns) for row in rows]
        skipped += [fault for fault in faults if fault is not None]
        return faults.count(None)

    def _columns(self, name: str, present: list[str]) -> tuple[str, str]:
        """The columns of the images' names and of the captions."""
        file, described = self._files[name], f"it has {', '.join(present)}"
        file_column = column_among(present, FILE_COLUMNS)
        if file_column is None:
            raise CorgiError(
                f"{file} has no column 'file_name'; {described}", "name each row's image"
            )
        column = caption_column_of([c for c in present if c != file_column], self._column)
        if column is None:
            missing = " or ".join(map(repr, CAPTION_COLUMNS[:4]))
            raise CorgiError(
                f"{file} has no caption column "
                f"{missing if self._column is None else repr(self._column)}; {described}",
                "name the column that holds the captions by --caption-column",
            )
        self._found_column = True
        return file_column, column

    def _take(self, row: Row, table: str, file_column: str, column: str) -> Skipped | None:
        """Keep a row's captions for its image; what is wrong with the row, or None."""
        named = row.values.get(file_column)
        if named is None or not str(named).strip():
            return Skipped(row.where, f"row without {file_column}", shortened(row.values))
        image = self._images.found(str(named), table.rpartition("/")[0])
        if image is None:
            return Skipped(row.where, "names no image that is there", shortened(str(named)))
        captions = captions_in(row.values.get(column))
        if captions.texts is None:
            self._by_image.setdefault(image, None)
        else:  # several rows, or several tables, may tell of one image
            texts = [*(self._by_image.get(image) or []), *captions.texts]
            self._by_image[image] = list(dict.fromkeys(texts))
        if captions.fault:
            return Skipped(row.where, "unusable caption", captions.fault)
        return None

    def of(self, image: str) -> Captions:
        """The captions of an image."""
        beside = self._beside.get(stem_of(image), {}) | self._beside.get(image, {})
        self._used.update(beside.values())
        if image in self._by_image:
            return Captions(self._by_image[image])
        for suffix in CAPTION_SUFFIXES:
            if suffix in beside and (self._column is None or suffix == "json"):
                text = text_of(self._files[beside[suffix]].read_bytes())
                return (
                    captions_in_json(text, self._column) if suffix == "json" else Captions([text])
                )
        return Captions(None)

    def unused(self) -> Iterator[Skipped]:
        """The files that are neither an image nor hold the captions of one."""
        for name in self._others:
            suffix = suffix_of(name) if "." in name.rpartition("/")[2] else ""
            if name in self._used:
                continue
            if suffix in CAPTION_SUFFIXES:
                yield Skipped(name, "captions without an image of that name")
            elif suffix in TABLE_SUFFIXES:
                yield Skipped(name, "a table that is not called metadata")
            else:
                yield not_an_image(name)
