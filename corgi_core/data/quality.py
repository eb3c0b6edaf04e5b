"""The quality gate: every image decoded once, made plain or quarantined, with key and reason.

The gated dataset's images are RGB files that a training may trust: JPEG, PNG or WebP, as they were
where no pixel had to change. Precomputed embeddings are checked and left as they are. Its shards
are those of the raw data, each less what was left out, and

<folder>/quarantine/00000.parquet    what was left out of a shard ("quarantined") and what was
                                     changed in a way worth knowing ("normalised")
<folder>/pixels/00000.parquet        digests of a shard's decoded images, to find duplicates by
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path, PurePath

import numpy as np
import pandas as pd
import pyarrow as pa
from upath import UPath

from corgi_core.config import DataSettings
from corgi_core.data.dataset import (
    INDEX,
    Dataset,
    check_apart,
    finish_shard,
    is_dataset,
    write_images,
    write_index,
    writing,
)
from corgi_core.data.hashes import HashColumn
from corgi_core.data.manifest import (
    ShardRecord,
    manifest_path,
    read_record,
    write_manifest,
)
from corgi_core.data.normalise import UnfitError, normalise, without_warnings
from corgi_core.data.parquet import read_frame, read_rows, write_table
from corgi_core.data.prefetch import in_order
from corgi_core.data.revisions import GATE_REVISION
from corgi_core.data.shards import Sample
from corgi_core.data.vectors import VECTOR, Space, read_vector
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of, make_folder, remove_file
from corgi_core.io.folders import published, remove_folder, sizes_below
from corgi_core.io.markers import check_replaceable, files_below, mark_folder
from corgi_core.progress import report

MAX_CAPTION = 2000  # characters
EXAMPLES = 200  # rows of the quarantine, or a shard's more, that its summary has
_TABLE = "parquet"
_BATCH = 32  # images in memory
_THREADS = min(8, os.cpu_count() or 1)  # that decode; each may hold two images of `max_pixels`
QUARANTINE = pa.schema([(name, pa.string()) for name in ("key", "reason", "detail", "action")])
PIXELS = pa.schema([(name, pa.string()) for name in ("key", "digest")])
Records = list[dict[str, str]]


def gate(raw: Dataset, folder: Path | UPath, settings: DataSettings) -> Dataset:
    """Pass `raw` through the gate into `folder`: those of its shards that are not there yet.

    An image that cannot be decoded, has more than `settings.max_pixels`, or has the same pixels as
    an earlier one is left out; so is an embedding that is not finite, has a block of zeros, was
    made by other encoders than the first one, or repeats an earlier one. An image without a single
    good caption stays, as image-only.

    A shard's result is a function of the raw shard, the settings and the pixels of the shards
    before it; it is there whole or not at all. So the outcome does not depend on in how many steps
    the shards came, and a killed run leaves whole shards, from which the next one goes on.

    Raises:
        CorgiError: no image is usable; `folder` may not be written, or holds what Corgi did not
            write.
    """
    folder = published(folder)
    check_apart(raw.folder, folder)
    with writing(folder):
        return _Gate(raw, folder, settings).run()


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

    def __init__(self, raw: Dataset, folder: Path | UPath, settings: DataSettings) -> None:
        check_replaceable(folder)
        self.raw, self.folder, self.settings = raw, folder, settings
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
        records: list[ShardRecord] = []
        chain, recomputed, done = "", 0, 0  # chain: digest of what the shards before hold
        report("checking images", 0, len(self.raw))
        for number, name in enumerate(names):
            source = digest_of(self.raw.records[name].digest, *self.decisive)
            record = self._up_to_date(number, name, source, chain)
            if record is None:
                if name in listed:  # what is there is whole no longer
                    remove_file(self.folder / INDEX)
                record = self._compute(number, name, source, chain)
                recomputed += 1
            records.append(record)
            chain = digest_of(chain, record.content)
            done += self.raw.records[name].images
            report("checking images", done, len(self.raw))
        if not any(record.images for record in records):
            raise self._nothing_usable()
        write_index(self.folder, records)
        for name in self._files_there() - expected - {INDEX}:
            remove_file(self.folder / name)
        mark_folder(self.folder, expected | {INDEX})
        return replace(Dataset.load(self.folder), recomputed=recomputed)

    def _quarantine_path(self, shard: str) -> Path | UPath:
        return self.folder / "quarantine" / f"{shard}.{_TABLE}"

    def _files_there(self) -> set[str]:
        """The gate's own files, of this and of older versions, relative to the folder."""
        patterns = ("shards/*", "manifest/*", "quarantine/*", "pixels/*", "*.parquet", INDEX)
        return {
            name
            for name in files_below(self.folder)
            if any(PurePath(f"/{name}").match(f"/{pattern}") for pattern in patterns)
        }

    def _up_to_date(self, number: int, name: str, source: str, chain: str) -> ShardRecord | None:
        """The record of the shard's result where that is what `_compute` would give."""
        folders = ("manifest", "quarantine", "pixels")
        if not {f"{each}/{name}.{_TABLE}" for each in folders} <= self.sizes.keys():
            return None
        record = read_record(self.folder, name)
        if record is None or record.made_from["source"] != source:
            return None
        if self.sizes.get(f"shards/{name}.tar") != record.bytes:
            return None
        if record.made_from["earlier"] == chain:
            return record
        # Shards before it have changed: its result stands where its duplicates are the same.
        passed = read_frame(_pixels_path(self.folder, name))["digest"].tolist()
        left_out = dict(record.made_from["duplicates"])
        expected = [*[None] * len(passed), *left_out.values()]
        if self.earlier.first_with([*passed, *left_out], number) != expected:
            return None
        record = replace(record, made_from=record.made_from | {"earlier": chain})
        write_manifest(self.folder, read_rows(manifest_path(self.folder, name)), record)
        return record

    def _compute(self, number: int, name: str, source: str, chain: str) -> ShardRecord:
        """Gate one shard; its manifest is written last and says that it is whole."""
        shard = _Shard(self.earlier, number)
        check = partial(_checked, settings=self.settings, space=self.space)
        checked = in_order(check, self.raw.samples(name), _THREADS)
        remove_file(manifest_path(self.folder, name))  # so that nothing is half new
        with without_warnings():
            rows, size = write_images(self.folder, name, shard.passed(checked))
        write_table(self._quarantine_path(name), shard.records, QUARANTINE)
        write_table(_pixels_path(self.folder, name), shard.pixels, PIXELS)
        return finish_shard(
            self.folder, name, rows, size,
            source=source, earlier=chain, duplicates=sorted(map(list, shard.duplicates.items())),
        )  # fmt: skip

    def _nothing_usable(self) -> CorgiError:
        first = next(rows for rows in iter_quarantine(Dataset(self.folder)) if len(rows)).iloc[0]
        remove_folder(self.folder)
        return CorgiError(
            f"none of the {len(self.raw)} images in {self.raw.folder} is usable "
            f"({first['key']}: {first['reason']}, {first['detail']})",
            "bring images that an ordinary viewer can open, or embeddings that are finite",
        )


def _pixels_path(folder: Path | UPath, shard: str) -> Path | UPath:
    return folder / "pixels" / f"{shard}.{_TABLE}"


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
        rows = read_frame(_pixels_path(self._folder, self._shards[number]))
        return dict(zip(rows["digest"], rows["key"], strict=True))


@dataclass
class _Checked:
    """A sample after the gate's look at it alone: its plain form, or why there is none."""

    key: str
    plain: Sample | None = None
    digest: str | None = None  # of its pixels, or of the embedding
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
    return _Checked(sample.key, plain, image.pixels, image.changes)


class _Shard:
    """The samples of one shard that pass the gate, and the records of the others."""

    def __init__(self, earlier: _EarlierPixels, number: int) -> None:
        self._earlier, self._number = earlier, number
        self._first_with: dict[str, str] = {}  # digest of the pixels -> their first key
        self.pixels: Records = []  # of those that pass
        self.duplicates: dict[str, str] = {}  # those of them that an earlier shard has
        self.records: Records = []

    def passed(self, checked: Iterator[_Checked]) -> Iterator[Sample]:
        """The samples that pass, with their sound captions, in their order."""
        while batch := list(islice(checked, _BATCH)):
            self._look_up([image.digest for image in batch if image.digest])
            for image in batch:
                if (sample := self._passed(image)) is not None:
                    yield sample

    def _look_up(self, digests: list[str]) -> None:
        """Note which of these are in earlier shards."""
        first = zip(digests, self._earlier.first_with(digests, self._number), strict=True)
        found = {digest: key for digest, key in first if key is not None}
        self.duplicates |= found
        self._first_with |= found

    def _passed(self, image: _Checked) -> Sample | None:
        plain = image.plain
        if plain is None or image.digest is None:
            self._note(image.key, *image.notes[0])
            return None
        first = self._first_with.setdefault(image.digest, image.key)
        if first != image.key:
            same = "numbers" if plain.suffix == VECTOR else "pixels"
            self._note(image.key, "duplicate", f"has the same {same} as {first}")
            return None
        self.pixels.append({"key": image.key, "digest": image.digest})
        for change in image.notes:
            self._note(image.key, *change, action="normalised")
        captions = []
        for caption in plain.captions or []:
            if fault := fault_of(caption):
                self._note(image.key, fault, f"caption {caption[:80]!r} is dropped")
            else:
                captions.append(" ".join(caption.split()))
        return replace(plain, captions=captions or None)

    def _note(self, key: str, reason: str, detail: str, action: str = "quarantined") -> None:
        self.records.append({"key": key, "reason": reason, "detail": detail, "action": action})


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
