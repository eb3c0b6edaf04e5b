"""The gate's last step: near twins come into one split, in manifests that are there already.

A shard's images and tar stay; its manifest gets the splits, and its quarantine says which images
were moved and why. Shards of earlier ingests are not written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from upath import UPath

from corgi_core.data.dataset import INDEX, Dataset, finish_shard
from corgi_core.data.gate_tables import MOVED, QUARANTINE, quarantine_path, read_hashes
from corgi_core.data.manifest import ShardRecord, manifest_path
from corgi_core.data.parquet import read_rows, write_table
from corgi_core.data.splits import SPLITS, TEST, TRAIN, VALIDATION
from corgi_core.data.twins import HashedRows, Moves, moves_of
from corgi_core.io.files import remove_file

REASON = "near twin"


def with_twins_together(
    raw: Dataset, folder: Path | UPath, records: Sequence[ShardRecord], bits: int | None
) -> list[ShardRecord]:
    """Put near twins into one split.

    Args:
        raw: The dataset before the gate, whose splits count but for near twins.
        folder: The gated one, all of whose shards are written.
        records: Their records.
        bits: In which the hashes of near twins differ, at most; None: nothing is moved.

    Returns:
        The records, as they are now.
    """
    movable = _movable(raw)
    gated = _Gated(raw, folder, movable)
    moves = Moves({}, frozenset())
    if bits is not None and movable and raw.holds_pictures:
        moves = moves_of(raw.shards, raw.batches, gated.rows, bits, movable)
    return [gated.with_moves(record, moves) for record in records]


def _movable(raw: Dataset) -> tuple[str, ...]:
    """The splits that hashes decided: all, or what is taken from the owner's training split."""
    if not (owners := raw.owners_splits):
        return SPLITS
    return () if {VALIDATION, TEST} <= set(owners) else (TRAIN, VALIDATION)


@dataclass(frozen=True)
class _Gated:
    """The gated shards of a raw dataset, and which of its splits may be left."""

    raw: Dataset
    folder: Path | UPath
    movable: tuple[str, ...]

    def rows(self, name: str) -> HashedRows:
        """The images of a shard that passed, with their hashes and the raw dataset's splits."""
        keys, hashes, hashed = read_hashes(self.folder, name)
        rows = self.raw.rows(name, "key", "group", "split")
        rows = rows[rows["key"].isin(keys)]
        return HashedRows(keys, rows["group"].tolist(), rows["split"].tolist(), hashes, hashed)

    def with_moves(self, record: ShardRecord, moves: Moves) -> ShardRecord:
        """The record of a shard whose images are in the splits that the moves say."""
        wanted = self._moved(record.name, moves) if record.name in moves.shards else []
        if record.made_from.get(MOVED, []) == wanted:
            return record
        remove_file(self.folder / INDEX)  # what is there is whole no longer
        return self._written(record, wanted)

    def _moved(self, name: str, moves: Moves) -> list[list[str]]:
        """Key, split and reason of a shard's images that are moved."""
        rows = self.rows(name)
        return [
            [key, moves.groups[group].split, moves.groups[group].why]
            for key, group, split in zip(rows.keys, rows.groups, rows.splits, strict=True)
            if group in moves.groups and split in self.movable
        ]

    def _written(self, record: ShardRecord, moved: list[list[str]]) -> ShardRecord:
        """Write a shard's manifest and quarantine with the raw dataset's splits but for `moved`."""
        name, path = record.name, quarantine_path(self.folder, record.name)
        raw = self.rows(name)
        splits = dict(zip(raw.keys, raw.splits, strict=True)) | {key: s for key, s, _ in moved}
        rows = read_rows(manifest_path(self.folder, name))
        for row in rows:
            row["split"] = splits[row["key"]]
        notes = [note for note in read_rows(path) if note["action"] != MOVED]
        notes += [
            {"key": key, "reason": REASON, "detail": why, "action": MOVED} for key, _, why in moved
        ]
        write_table(path, notes, QUARANTINE)
        made_from = {key: value for key, value in record.made_from.items() if key != MOVED}
        if moved:
            made_from[MOVED] = moved
        return finish_shard(self.folder, name, rows, record.bytes, **made_from)
