"""Near twins: pictures whose perceptual hashes differ in a few bits are all in one split.

Near twins connect their groups. Groups that are connected get the split of the first of them, in
the order of the shards. Groups that an earlier ingest brought stay where they are: what is added
to them later takes their split. A new group that connects earlier groups of different splits is
for training, and says so; the held-out images that it is near are then found by
`corgi_core.evaluation.split_overlap`.

So the splits are a function of the ingests, in their order. Memory holds 8 bytes an image while
hashes are sorted, and the pictures that have a near twin. A scratch file holds all hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from corgi_core.data.near_hashes import near_pairs
from corgi_core.data.splits import SPLITS, TRAIN
from corgi_core.io.scratch import scratch_folder


@dataclass(frozen=True)
class HashedRows:
    """The images of a shard, in its order.

    Attributes:
        keys: Their keys [n].
        groups: Their groups [n].
        splits: The splits that they have without regard to near twins [n].
        hashes: Their perceptual hashes uint64 [n].
        hashed: Which of them have one [n].
    """

    keys: Sequence[str]
    groups: Sequence[str]
    splits: Sequence[str]
    hashes: NDArray[np.uint64]
    hashed: NDArray[np.bool_]


Read = Callable[[str], HashedRows]


@dataclass(frozen=True)
class Move:
    """The split that a group gets for the sake of a near twin."""

    split: str
    why: str


@dataclass
class _Group:
    """A group that has a near twin."""

    name: str
    key: str  # of its first image that has a near twin
    number: int  # in the order of these images
    batch: int = -1  # in which its first image came
    split: str = ""  # so far
    shards: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Moves:
    """The groups that get another split, by name, and the shards that have images of them."""

    groups: dict[str, Move]
    shards: frozenset[str]


def moves_of(
    shards: Sequence[str],
    batches: Sequence[int],
    read: Read,
    bits: int,
    movable: Collection[str] = SPLITS,
) -> Moves:
    """Which groups get another split, so that near twins are in one.

    Args:
        shards: The shards' names, in order.
        batches: The number of the ingest that brought each shard, never decreasing.
        read: From a shard's name to its images; called three times for each.
        bits: In which the hashes of near twins differ, at most.
        movable: The splits whose groups may be moved, to one of these; others are the data's own.
    """
    pairs = pairs_of(shards, read, bits)
    near = np.unique(pairs)
    if not len(near):
        return Moves({}, frozenset())
    groups, meetings = _groups_at(shards, batches, read, near)
    _date(groups, shards, batches, read)
    known = np.full(len(near), max(batches) + 1)  # the batch in which a hash is first there
    for batch, _, at in meetings:
        known[at] = min(known[at], batch)
    ends = np.searchsorted(near, pairs)
    pair_batches = known[ends].max(axis=1)
    connected, moves = _Connected(len(near)), dict[str, Move]()
    for batch in sorted(set(batches)):
        touched = [
            connected.join_group(name, at) for when, name, at in meetings if when == batch
        ] + [connected.join(*pair) for pair in ends[pair_batches == batch].tolist()]
        for root in sorted({connected.root(at) for at in touched}):
            some = (groups[name] for name in connected.groups[root])
            moves |= _decided([group for group in some if group.split in movable], batch)
    moved = (groups[name].shards for name in moves)
    return Moves(moves, frozenset[str]().union(*moved))


def pairs_of(shards: Sequence[str], read: Read, bits: int) -> NDArray[np.uint64]:
    """`near_pairs` of all hashes of some shards, which lie in a scratch file meanwhile."""
    with scratch_folder("corgi-hashes-") as folder:
        path = folder / "hashes"
        with path.open("wb") as file:
            for shard in shards:
                rows = read(shard)
                file.write(rows.hashes[rows.hashed].tobytes())
        return near_pairs(_mapped(path), bits)


def _mapped(path: Path) -> NDArray[np.uint64]:
    """The file's hashes; no empty file can be mapped."""
    if not path.stat().st_size:
        return np.empty(0, np.uint64)
    return np.memmap(path, np.uint64, "r")


def _groups_at(
    shards: Sequence[str], batches: Sequence[int], read: Read, near: NDArray[np.uint64]
) -> tuple[dict[str, _Group], list[tuple[int, str, int]]]:
    """The groups that have near twins, and each (batch, group, position of its hash in `near`).

    In the order of the images, each once.
    """
    groups, meetings = dict[str, _Group](), dict[tuple[int, str, int], None]()
    for shard, batch in zip(shards, batches, strict=True):
        rows = read(shard)
        at = np.searchsorted(near, rows.hashes).clip(max=len(near) - 1)
        for row in np.flatnonzero(rows.hashed & (near[at] == rows.hashes)).tolist():
            name = rows.groups[row]
            groups.setdefault(name, _Group(name, rows.keys[row], len(groups)))
            meetings[batch, name, int(at[row])] = None
    return groups, list(meetings)


def _date(
    groups: dict[str, _Group], shards: Sequence[str], batches: Sequence[int], read: Read
) -> None:
    """Note when the groups' first images came, and in which shards and split their images are."""
    for shard, batch in zip(shards, batches, strict=True):
        rows = read(shard)
        for name, split in zip(rows.groups, rows.splits, strict=True):
            group = groups.get(name)
            if group is None:
                continue
            if group.batch < 0:
                group.batch, group.split = batch, split
            group.shards.add(shard)


def _decided(connected: list[_Group], batch: int) -> Iterator[tuple[str, Move]]:
    """The moves of a batch's new groups among some that are connected; their splits are noted."""
    connected.sort(key=lambda group: group.number)
    new = [group for group in connected if group.batch == batch]
    old = [group for group in connected if group.batch < batch]
    if not new:
        return
    first = (old or new)[0]
    others = [group for group in old if group.split != first.split]
    split = TRAIN if others else first.split
    for group in new:
        if group.split != split:
            why = f"near {first.key} ({first.split})"
            why += f" and {others[0].key} ({others[0].split})" if others else ""
            yield group.name, Move(split, f"{why}: {group.split} → {split}")
        group.split = split


class _Connected:
    """Which hashes and groups are connected: a forest of disjoint sets."""

    def __init__(self, hashes: int) -> None:
        self._parents = list(range(hashes))
        self._numbers: dict[str, int] = {}  # of groups, after the hashes'
        self.groups: dict[int, list[str]] = {}  # of a set with groups, by its root

    def root(self, at: int) -> int:
        """What stands for the set that holds a hash or group."""
        while (parent := self._parents[at]) != at:
            self._parents[at] = at = self._parents[parent]
        return at

    def join(self, one: int, other: int) -> int:
        """Connect two; the number of either."""
        one, other = self.root(one), self.root(other)
        if one != other:
            large, small = sorted((one, other), key=lambda at: -len(self.groups.get(at, ())))
            self._parents[small] = large
            if small in self.groups:
                self.groups[large] += self.groups.pop(small)
        return one

    def join_group(self, name: str, at: int) -> int:
        """Connect a group with a hash; the number of either."""
        if name not in self._numbers:
            self._numbers[name] = len(self._parents)
            self._parents.append(len(self._parents))
            self.groups[self._numbers[name]] = [name]
        return self.join(self._numbers[name], at)
