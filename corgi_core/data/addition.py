"""New shards after those of a dataset: what is there already is passed over, and stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from upath import UPath

from corgi_core.config import DataSettings
from corgi_core.data.dataset import Dataset, write_images, write_index
from corgi_core.data.formats.webdataset_shards import COMPRESSED
from corgi_core.data.manifest import (
    MANIFEST,
    OutsideTar,
    ShardRecord,
    manifest_path,
    write_manifest,
)
from corgi_core.data.parquet import Row, read_rows, write_table
from corgi_core.data.present import Present
from corgi_core.data.shards import Origin, Sample, row_of, two_images
from corgi_core.data.skipped import SkippedFile
from corgi_core.data.splits import Splits
from corgi_core.data.vectors import VECTOR
from corgi_core.errors import CorgiError

_BATCH = 64  # images in memory, of tars that are registered


@dataclass(frozen=True)
class _Draft:
    """A new shard of which the splits are not decided; its rows are in its manifest so far."""

    name: str
    bytes: int
    made_from: dict[str, Any] = field(default_factory=dict)
    outside: OutsideTar | None = None


class Addition:
    """New shards in a temporary folder, to join those of the dataset that is `present`, if any."""

    def __init__(
        self,
        folder: Path | UPath,
        present: Dataset | None,
        settings: DataSettings,
        seed: int,
        skipped: SkippedFile,
    ) -> None:
        _check_has_validation(present)
        self.folder, self.present, self.settings, self.skipped = folder, present, settings, skipped
        self.there = Present(present)
        self.first = _number_after(present)
        self.splits = Splits(
            settings.test_fraction,
            settings.validation_fraction,
            seed,
            present=set(present.counts["split"]) if present is not None else (),
            owners=present.owners_splits if present is not None else (),
        )
        self.drafts: list[_Draft] = []
        self.found = 0  # images, whether new or not
        self._kind = None if present is None else present.holds_pictures

    def take(self, samples: Iterator[Sample], by_reference: bool) -> None:
        """Take those samples that are new: into shards of their own, or in the tars they lie in."""
        if by_reference:
            self._register(samples)
        else:
            self._write(samples)

    def _write(self, samples: Iterator[Sample]) -> None:
        """Write those samples that are new, `settings.shard_size` a shard, in their order."""
        size = self.settings.shard_size
        shard: list[Sample] = []
        while found := list(islice(samples, size - len(shard))):
            self.found += len(found)
            shard += self._new_among(found)
            if len(shard) == size:
                self._write_shard(shard)
                shard = []
        if shard:
            self._write_shard(shard)

    def _register(self, samples: Iterator[Sample]) -> None:
        """Take each tar that the samples come from as a shard, its bytes where they are."""
        for tar, images in groupby(samples, key=_tar_of):
            _check_plain(tar)
            name = self._next_name
            found: list[tuple[Row, Origin]] = []
            while batch := list(islice(images, _BATCH)):
                self.found += len(batch)
                found += [(row_of(s, name), s.origin) for s in self._new_among(batch) if s.origin]
            if found:
                found.sort(key=lambda pair: pair[0]["key"])
                rows = [row for row, _ in found]
                about = {
                    "members": [origin.member for _, origin in found],
                    "ranges": [[origin.start, origin.size] for _, origin in found],
                }
                size = int(tar.stat().st_size)
                self._draft(rows, _Draft(name, size, about, OutsideTar.of(tar)))

    @property
    def _next_name(self) -> str:
        return f"{self.first + len(self.drafts):05d}"

    def _new_among(self, samples: list[Sample]) -> Iterator[Sample]:
        """The samples whose key and image are not there; the others are noted."""
        matches = self.there.matches(
            [sample.key for sample in samples],
            [sample.sha256 for sample in samples],
        )
        for sample, match in zip(samples, matches, strict=True):
            self._check_kind(sample)
            if match is None:
                yield sample
            elif match.added:
                raise two_images(sample.key)
            elif match.same_image:
                self.skipped.add(sample.key, "already there", f"as {match.key}")
            else:
                self.skipped.add(
                    sample.key, "key already there", f"as {match.key}, which is another image"
                )

    def _check_kind(self, sample: Sample) -> None:
        """Raise CorgiError where pictures and precomputed embeddings would be in one dataset."""
        pictures = sample.suffix != VECTOR
        if self._kind is None:
            self._kind = pictures
        if pictures != self._kind:
            kinds = ("precomputed embeddings", "pictures")
            raise CorgiError(
                f"{sample.key} is one of the {kinds[pictures]}, and the dataset holds "
                f"{kinds[self._kind]}",
                "choose another --name for it",
            )

    def _write_shard(self, samples: list[Sample]) -> None:
        ordered = sorted(samples, key=lambda sample: sample.key)
        rows, size = write_images(self.folder, self._next_name, ordered)
        self._draft(rows, _Draft(self._next_name, size))

    def _draft(self, rows: list[Row], draft: _Draft) -> None:
        """Take in a shard whose splits are still the reader's."""
        path = manifest_path(self.folder, draft.name)
        write_table(path, rows, MANIFEST)
        self.splits.note([row["group"] for row in rows], [row["split"] for row in rows])
        self.there.add([row["key"] for row in rows], path)
        self.drafts.append(draft)

    def finish(self, ingests: list[dict[str, Any]]) -> None:
        """Decide the splits, and write the `dataset.json` of what was there and what is new.

        `ingests`: what was read, now and before.
        """
        records = [*self.present.records.values()] if self.present else []
        write_index(
            self.folder,
            [*records, *self._with_splits()],
            ingests=ingests,
            owners_splits=self.splits.owners,
        )

    def _with_splits(self) -> list[ShardRecord]:
        """Decide the split of every new row; the shards' records."""
        records = []
        for draft in self.drafts:
            rows = read_rows(manifest_path(self.folder, draft.name))
            groups = [row["group"] for row in rows]
            splits = self.splits.decide(
                groups, [row["split"] for row in rows], self.there.splits_of(groups)
            )
            for row, split in zip(rows, splits, strict=True):
                row["split"] = split
            record = ShardRecord.of(draft.name, rows, draft.bytes, draft.made_from, draft.outside)
            write_manifest(self.folder, rows, record)
            records.append(record)
        return records


def _tar_of(sample: Sample) -> Path | UPath:
    """The tar that a sample comes from; CorgiError where it comes from none."""
    if sample.origin is None:
        raise CorgiError(
            "only tars, of the formats webdataset and img2dataset, can be registered by reference",
            "leave --by-reference out: the images are then copied",
        )
    return sample.origin.tar


def _check_plain(tar: Path | UPath) -> None:
    """Raise CorgiError where a tar is compressed, so that its members cannot be read alone."""
    with tar.open("rb") as file:
        if file.read(6).startswith(COMPRESSED):
            raise CorgiError(
                f"{tar} is compressed, and cannot be read by reference",
                "leave --by-reference out, or unpack it to a plain .tar",
            )


def _check_has_validation(present: Dataset | None) -> None:
    """Raise CorgiError where the dataset was ingested when there were two splits."""
    if present is not None and not present.knows_owners_splits:
        raise CorgiError(
            f"{present.folder} was ingested by an older version of Corgi: it has no validation "
            "split, and what is added would be split otherwise",
            "ingest all of the data again with --replace",
        )


def _number_after(present: Dataset | None) -> int:
    """The number of the first new shard."""
    return 1 + int(present.shards[-1]) if present and present.shards else 0
