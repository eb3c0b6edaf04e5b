"""The quality gate: every image decoded once, made plain or quarantined, with key and reason.

The gated dataset's images are RGB files that a training may trust: JPEG, PNG or WebP, as they were
where no pixel had to change. Precomputed embeddings are checked and left as they are. Its shards
are those of the raw data, each less what was left out, and

<folder>/quarantine/00000.parquet    what was left out of a shard ("quarantined"), changed in a way
                                     worth knowing ("normalised"), or put into the split of a near
                                     twin ("moved")
<folder>/pixels/00000.parquet        digests of a shard's decoded images, to find duplicates by, and
                                     their perceptual hashes, to find near twins by
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from upath import UPath

from corgi_core.config import DataSettings
from corgi_core.data.dataset import (
    ABOUT,
    INDEX,
    Dataset,
    check_apart,
    finish_shard,
    is_dataset,
    write_images,
    write_index,
    writing,
)
from corgi_core.data.gate_tables import PIXELS, QUARANTINE, pixels_path, quarantine_path
from corgi_core.data.hashes import HashColumn
from corgi_core.data.manifest import (
    ShardRecord,
    manifest_path,
    read_record,
    tar_path,
    write_manifest,
)
from corgi_core.data.normalise import UnfitError, normalise, without_warnings
from corgi_core.data.parquet import Row, read_frame, read_rows, write_table
from corgi_core.data.prefetch import in_order
from corgi_core.data.revisions import GATE_REVISION
from corgi_core.data.shards import Sample, read_shard
from corgi_core.data.twins_together import with_twins_together
from corgi_core.data.vectors import VECTOR, Space, read_vector
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of, make_folder, remove_file
from corgi_core.io.folders import published, remove_folder, sizes_below
from corgi_core.io.markers import check_replaceable, files_below, mark_folder
from corgi_core.mapping import Map, map_here
from corgi_core.progress import muted, report

MAX_CAPTION = 2000  # characters
EXAMPLES = 200  # rows of the quarantine, or a shard's more, that its summary has
_TABLE = "parquet"
_THREADS = min(8, os.cpu_count() or 1)  # that decode; each may hold two images of `max_pixels`
Records = list[dict[str, Any]]


def gate(
    raw: Dataset,
    folder: Path | UPath,
    settings: DataSettings,
    mapped: Callable[[int], Map] = lambda images: map_here,
) -> Dataset:
    """Pass `raw` through the gate into `folder`: those of its shards that are not there yet.

    An image that cannot be decoded, has more than `settings.max_pixels`, or has the same pixels as
    an earlier one is left out; so is an embedding that is not finite, has a block of zeros, was
    made by other encoders than the first one, or repeats an earlier one. An image without a single
    good caption stays, as image-only.

    Of images whose perceptual hashes differ in up to `settings.twin_bits` bits all groups are in
    one split (`corgi_core.data.twins`). Splits that the data came with stay.

    A shard's result is a function of the raw shard, the settings, the pixels of the shards before
    it and those that the same ingest brought; it is there whole or not at all. So the outcome does
    not depend on who looked at the shards, nor on whether the data came through the gate in steps,
    and a killed run leaves whole shards, from which the next one goes on.

    Args:
        raw: The dataset as it was read.
        folder: Where the gated one is.
        settings: What an image may be.
        mapped: Where shards with so many images are looked at, each by itself. Duplicates of
            earlier shards are left out afterwards and here, without decoding anything again.

    Raises:
        CorgiError: no image is usable; `folder` may not be written, or holds what Corgi did not
            write.
    """
    folder = published(folder)
    check_apart(raw.folder, folder)
    with writing(folder):
        return _Gate(raw, folder, settings, mapped).run()


def iter_quarantine(dataset: Dataset) -> Iterator[pd.DataFrame]:
    """What the gate left out or changed, a shard at a time: key, reason, detail, action."""
    folder = dataset.folder / "quarantine"
    if not folder.exists():
        raise CorgiError(
            f"{dataset.folder} has not passed the quality gate", "materialise `images`"
        )
    files: list[Path | UPath] = [*folder.glob("*.parquet")]
    files.sort(key=lambda path: (len(path.name), path.name))
    yield from map(read_frame, files)


def quarantine_summary(dataset: Dataset) -> tuple[Counter[str], pd.DataFrame]:
    """How many images (or captions of them) each action was taken on, and the first rows."""
    counts, first, rows = Counter[str](), list[pd.DataFrame](), 0
    for part in iter_quarantine(dataset):
        counts.update(part["action"])
        if len(part) and rows < EXAMPLES:
            first.append(part)
            rows += len(part)
    return counts, pd.concat(first or [QUARANTINE.empty_table().to_pandas()], ignore_index=True)


class _Gate:
    """One run of the gate over a dataset."""

    def __init__(
        self,
        raw: Dataset,
        folder: Path | UPath,
        settings: DataSettings,
        mapped: Callable[[int], Map],
    ) -> None:
        check_replaceable(folder)
        self.raw, self.folder, self.settings, self.mapped = raw, folder, settings, mapped
        self.sizes = sizes_below(folder)  # of the files that were there, in bytes
        self.space = None if raw.holds_pictures else _first_space(raw)
        self.decisive = [GATE_REVISION, settings.max_pixels, settings.max_side, str(self.space)]
        self.earlier = _EarlierPixels(folder, raw.shards)

    def run(self) -> Dataset:
        """Compute what is missing; the gated dataset."""
        names = self.raw.shards
        expected = {
            f"{kind}/{name}.{suffix}"
            for name in names
            for kind, suffix in (
                ("shards", "tar"),
                ("manifest", _TABLE),
                ("quarantine", _TABLE),
                ("pixels", _TABLE),
            )
        }
        make_folder(self.folder)
        mark_folder(self.folder, expected | self._files_there() | {INDEX})
        listed = set(Dataset(self.folder).shards) if is_dataset(self.folder) else set()
        sources = {name: digest_of(self.raw.records[name].digest, *self.decisive) for name in names}
        there = {name: self._record_there(name, sources[name]) for name in names}
        missing = [name for name in names if there[name] is None]
        if listed.intersection(missing):  # what is there is whole no longer
            remove_file(self.folder / INDEX)
        records: list[ShardRecord] = []
        chain, recomputed, done = "", 0, 0  # chain: digest of what the shards before hold
        report("checking images", 0, len(self.raw))
        with closing(self._looks(missing)) as looks:
            for number, name in enumerate(names):
                record = there.pop(name)
                look = None
                if record is None:
                    with muted():  # shards; images are reported here
                        look = next(looks)
                elif (record := self._still_true(record, number, chain)) is None:
                    remove_file(self.folder / INDEX)
                    (look,) = self._looks([name])
                if look is not None:
                    record = self._decided(number, look, sources[name], chain)
                    recomputed += 1
                assert record is not None
                records.append(record)
                chain = digest_of(chain, record.content)
                done += self.raw.records[name].images
                report("checking images", done, len(self.raw))
        if not any(record.images for record in records):
            raise self._nothing_usable()
        records = with_twins_together(self.raw, self.folder, records, self.settings.twin_bits)
        write_index(self.folder, records)
        for name in self._files_there() - expected - {INDEX}:
            remove_file(self.folder / name)
        mark_folder(self.folder, expected | {INDEX})
        return replace(Dataset.load(self.folder), recomputed=recomputed)

    def _files_there(self) -> set[str]:
        """The gate's own files, of this and of older versions, relative to the folder."""
        patterns = ("shards/*", "manifest/*", "quarantine/*", "pixels/*", "*.parquet", INDEX)
        return {
            name
            for name in files_below(self.folder)
            if any(PurePath(f"/{name}").match(f"/{pattern}") for pattern in patterns)
        }

    def _record_there(self, name: str, source: str) -> ShardRecord | None:
        """The record of a shard's whole result that was made from `source`."""
        folders = ("manifest", "quarantine", "pixels")
        if not {f"{each}/{name}.{_TABLE}" for each in folders} <= self.sizes.keys():
            return None
        record = read_record(self.folder, name)
        if record is None or record.made_from["source"] != source:
            return None
        return record if self.sizes.get(f"shards/{name}.tar") == record.bytes else None

    def _still_true(self, record: ShardRecord, number: int, chain: str) -> ShardRecord | None:
        """The record, where the shards before it leave out what they did when it was made."""
        if record.made_from["earlier"] == chain:
            return record
        # Shards before it have changed: its result stands where its duplicates are the same.
        name = record.name
        passed = read_frame(pixels_path(self.folder, name))["digest"].tolist()
        left_out = dict(record.made_from["duplicates"])
        expected = [*[None] * len(passed), *left_out.values()]
        if self.earlier.first_with([*passed, *left_out], number) != expected:
            return None
        record = replace(record, made_from=record.made_from | {"earlier": chain})
        write_manifest(self.folder, read_rows(manifest_path(self.folder, name)), record)
        return record

    def _looks(self, names: Sequence[str]) -> Generator[_Look]:
        """What is found in each shard by itself; its images are in its tar already."""
        mapped = self.mapped(sum(self.raw.records[name].images for name in names))
        if len(names) < 2:
            mapped = map_here
        threads = _THREADS if mapped is map_here else 1
        looking = _Looking(self.raw, self.folder, self.settings, self.space, threads)
        return mapped(_look, looking, names, "checking images")

    def _decided(self, number: int, look: _Look, source: str, chain: str) -> ShardRecord:
        """Leave out duplicates of earlier shards; writing the manifest makes the shard whole."""
        digests = [image.digest for image in look.images if image.digest]
        found = zip(digests, self.earlier.first_with(digests, number), strict=True)
        duplicates = {digest: key for digest, key in found if key is not None}
        records, pixels = _passed(look.images, duplicates)
        rows, size = look.rows, look.size
        if len(pixels) < len(rows):
            rows, size = self._rewritten(look, {row["key"] for row in pixels})
        write_table(quarantine_path(self.folder, look.name), records, QUARANTINE)
        write_table(pixels_path(self.folder, look.name), pixels, PIXELS)
        return finish_shard(
            self.folder, look.name, rows, size,
            source=source, earlier=chain, duplicates=sorted(map(list, duplicates.items())),
        )  # fmt: skip

    def _rewritten(self, look: _Look, keys: set[str]) -> tuple[list[Row], int]:
        """Write the shard's tar again with these keys alone."""

        def samples(file: BinaryIO) -> Iterator[Sample]:
            for row, (key, suffix, image) in zip(look.rows, read_shard(file), strict=True):
                if key in keys:
                    yield Sample(key, image, suffix=suffix, **{name: row[name] for name in ABOUT})

        with tar_path(self.folder, look.name).open("rb") as file:
            return write_images(self.folder, look.name, samples(file))

    def _nothing_usable(self) -> CorgiError:
        first = next(rows for rows in iter_quarantine(Dataset(self.folder)) if len(rows)).iloc[0]
        remove_folder(self.folder)
        return CorgiError(
            f"none of the {len(self.raw)} images in {self.raw.folder} is usable "
            f"({first['key']}: {first['reason']}, {first['detail']})",
            "bring images that an ordinary viewer can open, or embeddings that are finite",
        )


class _EarlierPixels:
    """Finds images of the shards before one by the digest of their pixels, out of core."""

    def __init__(self, folder: Path | UPath, shards: Sequence[str]) -> None:
        self._folder, self._shards = folder, shards
        self._column = HashColumn()
        self._added = 0  # shards
        self._keys = lru_cache(64)(self._read_keys)

    def first_with(self, digests: Sequence[str], number: int) -> list[str | None]:
        """For each digest the first key that has it in the shards before that number, or None."""
        for shard in range(self._added, number):
            self._column.add(list(self._keys(shard)), shard)
        self._added = max(self._added, number)
        found = self._column.labels_of(digests)
        return [self._first(digests[i], found.get(i, ())) for i in range(len(digests))]

    def _first(self, digest: str, shards: Iterable[int]) -> str | None:
        keys = (self._keys(shard).get(digest) for shard in shards)
        return next((key for key in keys if key is not None), None)

    def _read_keys(self, number: int) -> dict[str, str]:
        """The key of each digest in a shard."""
        rows = read_frame(pixels_path(self._folder, self._shards[number]))
        return dict(zip(rows["digest"], rows["key"], strict=True))


@dataclass
class _Checked:
    """A sample after the gate's look at it alone: its plain form, or why there is none."""

    key: str
    plain: Sample | None = None
    digest: str | None = None  # of its pixels, or of the embedding
    hash: int | None = None
    notes: list[tuple[str, str]] = field(default_factory=list)  # (reason, detail)


def _checked(sample: Sample, settings: DataSettings, space: Space | None) -> _Checked:
    """The sample made plain, or refused; a function of the sample and the settings alone."""
    try:
        if sample.suffix == VECTOR:
            return _Checked(sample.key, _sound(sample, space), sample.sha256)
        image = normalise(sample.image, settings.max_pixels, settings.max_side)
    except UnfitError as unfit:
        return _Checked(sample.key, notes=[(unfit.reason, unfit.detail)])
    plain = replace(sample, image=image.image, suffix=image.suffix)
    return _Checked(sample.key, plain, image.pixels, image.hash, image.changes)


@dataclass(frozen=True)
class _Looking:
    """The inputs of the check of one shard."""

    raw: Dataset
    folder: Path | UPath
    settings: DataSettings
    space: Space | None
    threads: int


@dataclass(frozen=True)
class _Image:
    """What is found in one image by itself: notes are (reason, detail, action)."""

    key: str
    digest: str | None  # None: it is left out
    hash: int | None
    kind: str  # of its content
    notes: list[tuple[str, str, str]]


@dataclass(frozen=True)
class _Look:
    """What is found in one shard by itself.

    Attributes:
        name: Of the shard, whose tar has the images that pass but for earlier shards' sake.
        images: All of them, in order.
        rows: The manifest's, of the images in the tar.
        size: Of the tar, in bytes.
    """

    name: str
    images: list[_Image]
    rows: list[Row]
    size: int


def _look(looking: _Looking, name: str) -> _Look:
    """Decode one shard's images, and write its tar, which counts for nothing without a manifest."""
    images: list[_Image] = []
    check = partial(_checked, settings=looking.settings, space=looking.space)
    first = set[str]()

    def passing(checked: Iterable[_Checked]) -> Iterator[Sample]:
        for each in checked:
            plain, captions, notes = each.plain, [], [(*note, "normalised") for note in each.notes]
            if plain is None or each.digest is None:
                notes = [(*each.notes[0], "quarantined")]
                images.append(_Image(each.key, None, None, "", notes))
                continue
            for caption in plain.captions or []:
                if fault := fault_of(caption):
                    detail = f"caption {caption[:80]!r} is dropped"
                    notes.append((fault, detail, "quarantined"))
                else:
                    captions.append(" ".join(caption.split()))
            kind = "numbers" if plain.suffix == VECTOR else "pixels"
            images.append(_Image(each.key, each.digest, each.hash, kind, notes))
            if each.digest not in first:
                first.add(each.digest)
                yield replace(plain, captions=captions or None)

    remove_file(manifest_path(looking.folder, name))  # so that nothing is half new
    with without_warnings():
        checked = in_order(check, looking.raw.samples(name), looking.threads)
        rows, size = write_images(looking.folder, name, passing(checked))
    return _Look(name, images, rows, size)


def _passed(images: Iterable[_Image], duplicates: Mapping[str, str]) -> tuple[Records, Records]:
    """The quarantine's records of a shard, and the pixels' of the images that pass.

    `duplicates` has the first key of each digest that earlier shards have.
    """
    records: Records = []
    pixels: Records = []
    first_with = dict(duplicates)
    for image in images:
        notes = image.notes
        if image.digest is not None:
            first = first_with.setdefault(image.digest, image.key)
            if first == image.key:
                pixels.append({"key": image.key, "digest": image.digest, "hash": image.hash})
            else:
                same = f"has the same {image.kind} as {first}"
                notes = [("duplicate", same, "quarantined")]
        for reason, detail, action in notes:
            records.append({"key": image.key, "reason": reason, "detail": detail, "action": action})
    return records, pixels


def _first_space(raw: Dataset) -> Space | None:
    """Which encoders made the first embedding that can be read, which all others must share."""
    for shard in raw.shards:
        for _, file in raw.images(shard):
            try:
                return read_vector(file)[0]
            except CorgiError:
                continue
    return None


def _sound(sample: Sample, expected: Space | None) -> Sample:
    """The sample as it is; UnfitError where its embedding cannot be used."""
    try:
        space, z = read_vector(sample.image)
    except CorgiError as error:
        raise UnfitError("no embedding", error.problem) from error
    if space != (expected or space):
        raise UnfitError("other encoders", f"{space}, not {expected}")
    if not np.isfinite(z).all():
        raise UnfitError("not finite", f"{(~np.isfinite(z)).sum()} of {z.size} numbers")
    for name, block in zip(
        space.names, np.split(z, np.cumsum(space.encoder_dims)[:-1]), strict=True
    ):
        if not block.any():
            raise UnfitError("zero vector", f"the block of {name}")
    return sample


def fault_of(caption: str) -> str | None:
    """What is wrong with a caption, or None. Readers put U+FFFD where bytes are not UTF-8."""
    if not caption.strip():
        return "empty caption"
    if "\ufffd" in caption:
        return "caption is not UTF-8"
    if len(caption) > MAX_CAPTION:
        return "caption too long"
    if any(unicodedata.category(c) == "Cc" and not c.isspace() for c in caption):
        return "control characters in caption"
    return None
