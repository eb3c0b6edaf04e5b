"""Arrays that belong to a dataset's images, sharded as it is, each shard computed only once.

<folder>/00000.safetensors   several arrays with the same number of rows, and the rows' keys;
                             a ragged array is two, its `values` and its `offsets`
<folder>/00000.json          what that file was computed from, and its SHA-256
<folder>/index.json          the spec and all shards' records; written last, so it means "whole"
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from upath import UPath

from corgi_core.data.mapped import mapped_arrays
from corgi_core.data.ragged import RaggedArray
from corgi_core.errors import CorgiError
from corgi_core.io.disk_cache import read_copy
from corgi_core.io.files import (
    atomic_file,
    digest_of,
    is_local,
    make_folder,
    read_bytes,
    read_each,
    read_json,
    remove_file,
    write_json,
)
from corgi_core.io.folders import copy_folder, published
from corgi_core.io.markers import check_replaceable, files_below, mark_folder
from corgi_core.io.read_errors import explained_read_error
from corgi_core.progress import report

INDEX = "index.json"
FORMAT = 3  # raised when names inside the spec or the shards change; 3: tokens are ragged
Arrays: TypeAlias = dict[str, np.ndarray | RaggedArray]
"""A shard's arrays by name, with the same number of rows each, and "keys" among them."""

_REMEDY = "remove that file, and compute the arrays again"
_KEYS = "keys"  # stored as the bytes of a JSON list, since safetensors knows no strings
_VALUES, _OFFSETS = ".values", ".offsets"  # of a ragged array, after its name


class Sharded(Protocol):
    """What arrays are computed from, a shard at a time: a `Dataset`, or what is made of one."""

    @property
    def shards(self) -> list[str]:
        """The shards' names, in order."""

    def shard_digest(self, shard: str) -> str:
        """Names what the arrays of a shard are computed from."""

    def images_in(self, shard: str) -> int:
        """How many images a shard has: the unit of progress."""


class ArrayStore:
    """The arrays in `folder`. Pickles as its folder."""

    def __init__(self, folder: Path | UPath, recomputed: int = 0) -> None:
        self.folder = folder
        self.recomputed = recomputed  # shards that `compute_missing` had to compute this time
        self._whole: dict[str, np.ndarray] = {}

    @classmethod
    def load(cls, folder: Path | UPath, expect: Mapping[str, Any] | None = None) -> ArrayStore:
        """The whole store in `folder`; a CorgiError if there is none, or not as `expect` says."""
        store = cls(published(folder))
        try:
            found = store._index.get("format", 1)
        except FileNotFoundError as error:
            raise CorgiError(
                f"{folder} holds no whole arrays: no index.json", "compute them again"
            ) from error
        if found != FORMAT:
            raise CorgiError(
                f"the arrays in {folder} were written by another version of Corgi "
                f"(format {found}, this version reads {FORMAT})",
                "materialise them again, or use the version that wrote them",
            )
        for name, value in (expect or {}).items():
            found = store.spec.get(name)
            if found != json.loads(json.dumps(value)):
                raise CorgiError(
                    f"the arrays in {folder} were made with {name} = {found!r}, not {value!r}",
                    "compute them again with the present settings",
                )
        return store

    def save(self, folder: Path | UPath) -> None:
        """Copy the store to `folder`, whole or not at all; nothing to do when it is there."""
        copy_folder(self.folder, folder)

    def __reduce__(self) -> tuple[type[ArrayStore], tuple[Path | UPath, int]]:
        return (type(self), (self.folder, self.recomputed))

    @cached_property
    def _index(self) -> dict[str, Any]:
        index: dict[str, Any] = read_json(self.folder / INDEX)
        return index

    @property
    def spec(self) -> dict[str, Any]:
        """What the arrays are: encoder, width, size, …; as `compute_missing` was given it."""
        return dict(self._index["spec"])

    @property
    def shards(self) -> list[str]:
        """The names of the store's shards, in order."""
        return sorted(self._index["shards"], key=lambda shard: (len(shard), shard))

    @cached_property
    def digest(self) -> str:
        """Names the content: the spec and every shard's SHA-256."""
        shards = self._index["shards"]
        return digest_of(self.spec, [(shard, shards[shard]["sha256"]) for shard in self.shards])

    @cached_property
    def keys(self) -> np.ndarray:
        """The rows' keys, [rows] of str, in the shards' order; a key may name several rows."""
        return np.concatenate([self.read_shard(shard, _KEYS) for shard in self.shards])

    def read(self, name: str) -> np.ndarray:
        """All rows of the array `name`, [rows, …]; cached in memory for the next call."""
        if name not in self._whole:
            parts = [self.read_shard(shard, name) for shard in self.shards]
            self._whole[name] = np.concatenate(parts)
        return self._whole[name]

    def rows_in(self, shard: str) -> int:
        """How many rows a shard has; its file is not read."""
        return int(self._index["shards"][shard]["rows"])

    def shard_digest(self, shard: str) -> str:
        """Names one shard's content."""
        sha256: str = self._index["shards"][shard]["sha256"]
        return sha256

    def images_in(self, shard: str) -> int:
        """What `rows_in` says, where other arrays are computed from these."""
        return self.rows_in(shard)

    def shard_keys(self, shard: str) -> np.ndarray:
        """The keys of one shard's rows, to find rows by. The file is not verified for them."""
        try:
            return _read_keys(self._mapped(shard, [_KEYS], verified=False)[0])
        except ValueError:
            return _read_keys(self._mapped(shard, [_KEYS])[0])  # raises: the file is damaged

    def mapped(self, shard: str, name: str) -> np.ndarray:
        """One shard's rows of the array `name` as they lie on the disk, mapped into memory.

        Of a store that is not on a disk, a copy of the shard is (`disk_cache`).
        The file is verified when this process first asks for it; CorgiError if it is damaged.
        """
        return self._mapped(shard, [name])[0]

    def mapped_ragged(self, shard: str, name: str) -> RaggedArray:
        """One shard's rows of the ragged array `name`, as `mapped` has them."""
        return RaggedArray(*self._mapped(shard, [name + _VALUES, name + _OFFSETS]))

    def _mapped(
        self, shard: str, names: Sequence[str], *, verified: bool = True
    ) -> list[np.ndarray]:
        path, sha256 = self.folder / f"{shard}.safetensors", self.shard_digest(shard)
        read = partial(mapped_arrays, sha256=sha256 if verified else None)
        local = is_local(path)
        arrays = read(Path(str(path))) if local else read_copy(UPath(path), sha256, read)
        self._check_there(arrays, names)
        return [arrays[name] for name in names]

    def read_shard(self, shard: str, name: str) -> np.ndarray:
        """One shard's rows of the array `name` (or "keys"); a CorgiError if its file is damaged."""
        return self._read(shard, name)[0]

    def read_with_keys(self, shard: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """One shard's keys and rows of the array `name`, from one reading of its file."""
        keys, array = self._read(shard, _KEYS, name)
        return keys, array

    def read_ragged(self, name: str) -> RaggedArray:
        """All rows of the ragged array `name`."""
        return RaggedArray.concatenated([self.read_ragged_shard(s, name) for s in self.shards])

    def read_ragged_shard(self, shard: str, name: str) -> RaggedArray:
        """One shard's rows of the ragged array `name`."""
        return RaggedArray(*self._read(shard, name + _VALUES, name + _OFFSETS))

    def chunks(self, name: str, keys: Container[str] | None = None) -> Iterator[np.ndarray]:
        """The array `name` a shard at a time, [rows, …] each, in the store's order.

        No more than one shard is in memory. With `keys`, a set, only rows whose key is in it.
        """
        for shard in self.shards:
            if keys is None:
                yield self.read_shard(shard, name)
                continue
            array, named = self._read(shard, name, _KEYS)
            yield array[np.array([key in keys for key in named.tolist()], dtype=bool)]

    def _read(self, shard: str, *names: str) -> list[np.ndarray]:
        path = self.folder / f"{shard}.safetensors"
        try:
            content = read_bytes(path)
        except FileNotFoundError as error:
            raise CorgiError(f"{path} is not there any more", _REMEDY) from error
        except OSError as error:
            if (explained := explained_read_error(error, path)) is not None:
                raise explained from error
            raise
        if hashlib.sha256(content).hexdigest() != self._index["shards"][shard]["sha256"]:
            raise CorgiError(f"{path} is damaged: its SHA-256 is wrong", _REMEDY)
        arrays = safetensors.numpy.load(content)
        self._check_there(arrays, names)
        return [_read_keys(arrays[n]) if n == _KEYS else arrays[n] for n in names]

    def _check_there(self, arrays: Mapping[str, np.ndarray], names: Iterable[str]) -> None:
        if absent := [name for name in names if name not in arrays]:
            known = ", ".join(sorted({_plain(name) for name in arrays} - {_KEYS}))
            raise CorgiError(
                f"{self.folder} has no array {_plain(absent[0])!r} of that kind",
                f"choose one of {known}",
            )

    def first_rows(self, shard: str, keys: NDArray[np.str_]) -> NDArray[np.int64]:
        """The first row of each of the keys [n], all of that shard, among the shard's rows."""
        order, begins, _ = self._matches(self.shard_keys(shard), keys)
        return order[begins]

    def rows_of(self, keys: Iterable[str]) -> NDArray[np.int64]:
        """The rows, [n], of `keys` in their order; all of a key's rows, in row order."""
        order, begins, ends = self._matches(self.keys, np.array(list(keys), dtype=str))
        found = [order[begin:end] for begin, end in zip(begins, ends, strict=True)]
        return np.concatenate([np.empty(0, np.int64), *found])

    def _matches(
        self, there: NDArray[np.str_], keys: NDArray[np.str_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Rows ordered by their keys `there` [rows]; where those of each key [n] begin and end.

        Raises CorgiError where a key has no row.
        """
        order = np.argsort(there, kind="stable")
        begins, ends = (np.searchsorted(there[order], keys, side) for side in ("left", "right"))
        if len(absent := keys[begins == ends]):
            more = f" ({len(absent)} keys are missing)" if len(absent) > 1 else ""
            raise CorgiError(
                f"{self.folder} has no row for {str(absent[0])!r}{more}",
                "compute the arrays again for the present dataset",
            )
        return order, begins, ends

    def __len__(self) -> int:
        return sum(record["rows"] for record in self._index["shards"].values())


@dataclass(frozen=True)
class MissingShard:
    """A shard of a dataset whose arrays are not in a store yet."""

    name: str
    source: str  # the digest of what its arrays are computed from


def compute_missing(
    folder: Path | UPath,
    dataset: Sharded,
    spec: Mapping[str, Any],
    compute: Callable[[str], Arrays],
    what: str,
) -> ArrayStore:
    """Make the store in `folder` whole by calling `compute` for every shard that is not there yet.

    `compute(shard)` returns {"keys": [rows] of str, name: [rows, …], …}. A shard is there when its
    record names the present content and spec, and its file has the recorded SHA-256. Killed at any
    moment, the work leaves whole shards only, and the next call goes on from them.

    Raises CorgiError where `folder` holds what Corgi did not write.
    """
    missing = missing_shards(folder, dataset, spec)

    def written() -> Iterator[MissingShard]:
        for shard in missing:
            write_shard(folder, shard, compute(shard.name))
            yield shard

    report_shards(written(), dataset, missing, what)
    return finished_store(folder, dataset, spec, missing)


def missing_shards(
    folder: Path | UPath, dataset: Sharded, spec: Mapping[str, Any]
) -> list[MissingShard]:
    """The shards that `compute_missing` would compute; prepares `folder` for their files.

    Then `write_shard` writes each of them, in any order and by any process that sees `folder`, and
    `finished_store` makes the store whole.
    """
    folder = published(folder)
    check_replaceable(folder)
    there = {name for name in files_below(folder) if not name.endswith(".tmp")}
    make_folder(folder)
    mark_folder(folder, _files_of(dataset.shards) | there)
    records = _records_in(folder, dataset.shards)
    missing = [
        MissingShard(shard, source)
        for shard, source in _sources(dataset, spec)
        if not _is_whole(folder, shard, source, records.get(shard))
    ]
    if missing:
        remove_file(folder / INDEX)
    return missing


def write_shard(folder: Path | UPath, shard: MissingShard, arrays: Arrays) -> None:
    """Write one shard's arrays, whole or not at all, and then its record.

    An older record is removed first, so that none is ever there beside another one's arrays.
    """
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) != 1:
        raise ValueError(f"the arrays of shard {shard.name} differ in their number of rows: {rows}")
    stored = {
        stored_as: np.ascontiguousarray(array)
        for name, values in arrays.items()
        for stored_as, array in _parts(name, values)
    }
    content = safetensors.numpy.save(stored)
    folder = published(folder)
    remove_file(folder / f"{shard.name}.json")
    with atomic_file(folder / f"{shard.name}.safetensors") as temporary:
        temporary.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    record = {"source": shard.source, "sha256": sha256, "rows": rows[_KEYS]}
    write_json(folder / f"{shard.name}.json", record)


def report_shards(
    written: Iterable[MissingShard],
    dataset: Sharded,
    missing: Sequence[MissingShard],
    what: str,
) -> None:
    """Go through `written`, the `missing` shards in any order, and report progress in images.

    Shards that were there before count as done from the start.
    """
    total = sum(map(dataset.images_in, dataset.shards))
    done = total - sum(dataset.images_in(shard.name) for shard in missing)
    report(what, done, total)
    for shard in written:
        done += dataset.images_in(shard.name)
        report(what, done, total)


def finished_store(
    folder: Path | UPath,
    dataset: Sharded,
    spec: Mapping[str, Any],
    missing: Sequence[MissingShard],
) -> ArrayStore:
    """The store whose `missing` shards have been written: its index is, and the rest is removed.

    Raises CorgiError where a shard is not in `folder`.
    """
    folder = published(folder)
    there, records = _records_in(folder, dataset.shards), {}
    for shard, source in _sources(dataset, spec):
        record = there.get(shard)
        if record is None or record["source"] != source:
            raise CorgiError(
                f"shard {shard} has been computed, but {folder} does not hold it",
                "name a folder, or a URL such as s3://bucket/corgi, that all machines share",
            )
        records[shard] = record
    index = {"format": FORMAT, "spec": _as_read_back(spec), "shards": records}
    if not (folder / INDEX).exists() or read_json(folder / INDEX) != index:
        write_json(folder / INDEX, index)
    _tidy(folder, records)
    mark_folder(folder, _files_of(records))
    return ArrayStore(folder, recomputed=len(missing))


def _sources(dataset: Sharded, spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each shard with the digest of what its arrays are computed from."""
    about = _as_read_back(spec)
    for shard in dataset.shards:
        yield shard, digest_of(dataset.shard_digest(shard), about)


def _as_read_back(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec as JSON gives it back: lists for tuples."""
    values: dict[str, Any] = json.loads(json.dumps(dict(spec)))
    return values


def _tidy(folder: Path | UPath, records: Mapping[str, Any]) -> None:
    """Remove shards that the dataset no longer has, and what killed runs were writing."""
    wanted = _files_of(records)
    for name in files_below(folder):
        if name.endswith((".safetensors", ".json", ".tmp")) and name not in wanted:
            remove_file(folder / name)


def _files_of(shards: Iterable[str]) -> set[str]:
    """The names of all files of a whole store."""
    return {f"{shard}.{kind}" for shard in shards for kind in ("safetensors", "json")} | {INDEX}


def _records_in(folder: Path | UPath, shards: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the records say of those shards that have a record and a file of arrays."""
    there = set(files_below(folder))
    named = [
        shard for shard in shards if f"{shard}.safetensors" in there and f"{shard}.json" in there
    ]
    contents = read_each(folder, [f"{shard}.json" for shard in named])
    return dict(zip(named, map(json.loads, contents), strict=True))


def _is_whole(folder: Path | UPath, shard: str, source: str, record: dict[str, Any] | None) -> bool:
    """Whether a shard with this record is whole, and was computed from `source`.

    A local file is read for it. An object is whole by itself, and its record was written after it.
    """
    if record is None or record["source"] != source:
        return False
    if not is_local(folder):
        return True
    content = read_bytes(folder / f"{shard}.safetensors")
    return bool(record["sha256"] == hashlib.sha256(content).hexdigest())


def _parts(name: str, array: np.ndarray | RaggedArray) -> Iterator[tuple[str, np.ndarray]]:
    """What a file holds for an array, by the names there."""
    if isinstance(array, RaggedArray):
        yield from ((name + _VALUES, array.values), (name + _OFFSETS, array.offsets))
    elif name == _KEYS:
        yield name, np.frombuffer(json.dumps(array.tolist()).encode(), np.uint8)
    else:
        yield name, array


def _plain(name: str) -> str:
    """An array's name without what a ragged one's parts add to it."""
    return name.removesuffix(_VALUES).removesuffix(_OFFSETS)


def _read_keys(stored: np.ndarray) -> np.ndarray:
    return np.array(json.loads(stored.tobytes()), dtype=str)
