"""The images as squares, at the size of a model: read from the stored pixels, or decoded online.

Both give the same values: what is decoded online becomes a square of the pixels' own size, and is
scaled down from there, as what is stored is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from upath import UPath

from corgi_core.config import Framing
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.image_index import is_online
from corgi_core.data.pixels import square
from corgi_core.data.prefetch import in_order
from corgi_core.errors import CorgiError
from corgi_core.io.disk_cache import read_copy, remove_copy
from corgi_core.io.files import is_local, read_ranges
from corgi_core.io.read_errors import explained_read_error
from corgi_core.streaming.loader_processes import LoaderProcesses
from corgi_core.streaming.resizing import at_size

AT_ONCE = 4  # image files that a thread or a process decodes at once
TARS = 4096  # whose paths are remembered

Parts: TypeAlias = Iterable[tuple[str, NDArray[np.integer[Any]], NDArray[np.int64]]]
"""A shard, numbers of its rows, and their positions in a batch."""


_Decoded: TypeAlias = tuple[NDArray[np.int64], NDArray[np.uint8]]
"""Positions [n] in a batch, and the images that go there, [n, 3, s, s]."""


class _Files(NamedTuple):
    """Some image files of a shard, and their positions in a batch."""

    shard: str
    rows: list[int]
    contents: list[bytes]
    digests: list[bytes]
    at: NDArray[np.int64]


class _DamagedError(Exception):
    """Of an image: its shard, its row there, and what is wrong."""


class Squares:
    """Rows of the asset `pixels` as images.

    Args:
        pixels: "pixels" uint8 [n, 3, s, s], or the positions of the images' files (`ImageIndex`).
        images: The dataset with those files.

    Attributes:
        store: The pixels, or the positions.
        online: Whether images are decoded here.

    Raises:
        CorgiError: images are to be decoded, and no dataset is given.
    """

    def __init__(self, pixels: ArrayStore, images: Dataset | None) -> None:
        self.store, self.online = pixels, is_online(pixels)
        self._size: int = pixels.spec["size"]
        self._processes: LoaderProcesses | None = None
        if not self.online:
            return
        if images is None:
            raise CorgiError(
                f"{pixels.folder} has no pixels: they are decoded from the images (pixels: online)",
                "give the dataset beside it, or store the pixels, by --set pixels=stored",
            )
        self._images, self._framing = images, pixels.spec["framing"]
        self._tar = lru_cache(TARS)(images.tar)

    @contextmanager
    def decoded_by(self, processes: int) -> Iterator[None]:
        """Inside, so many processes decode; without them, this process's threads do."""
        with LoaderProcesses.started(processes) as self._processes:
            try:
                yield
            finally:
                self._processes = None

    def gather(self, count: int, parts: Parts, size: int) -> Tensor:
        """Rows of several shards.

        Args:
            count: How many images there are.
            parts: Where they are, and where they go.
            size: Pixels to a side, at most those of the stored pixels.

        Returns:
            uint8 [count, 3, size, size].

        Raises:
            CorgiError: a file of the store or a tar is missing, or an image is damaged.
        """
        if self.online:
            return self._decoded(count, parts, size)
        stored = np.empty((count, 3, self._size, self._size), np.uint8)
        for shard, rows, at in parts:
            stored[at] = self.store.mapped(shard, "pixels")[rows]
        return at_size(torch.from_numpy(stored), size)

    def in_batches(
        self, shard: str, size: int, batch: int
    ) -> Iterator[tuple[NDArray[np.str_], Tensor]]:
        """The keys [b] and the images uint8 [b, 3, size, size] of a shard, `batch` at a time."""
        keys = self.store.shard_keys(shard)
        stored: NDArray[np.uint8] | None = None
        if not self.online:
            keys, stored = self.store.read_with_keys(shard, "pixels")
        for first in range(0, len(keys), batch):
            rows = np.arange(first, min(first + batch, len(keys)))
            if stored is None:
                images = self.gather(len(rows), [(shard, rows, rows - first)], size)
            else:
                images = at_size(torch.from_numpy(stored[rows]), size)
            yield keys[rows], images

    def _decoded(self, count: int, parts: Parts, size: int) -> Tensor:
        """As `gather`. The tar of a damaged image is fetched once more, where it is remote."""
        found, parts = np.empty((count, 3, size, size), np.uint8), list(parts)
        fetched_again: set[str] = set()
        while True:
            try:
                for at, images in self._each_decoded(parts, size):
                    found[at] = images
                return torch.from_numpy(found)
            except _DamagedError as error:
                shard, row, why = error.args
                path = self._tar(shard)
                if is_local(path) or shard in fetched_again:
                    raise CorgiError(
                        f"the image {str(self.store.shard_keys(shard)[row])!r} of shard {shard}, "
                        f"in {path}, is damaged: {why}",
                        "bring that tar back, or make the images again",
                    ) from error
            remove_copy(UPath(path), self.store.shard_digest(shard))
            fetched_again.add(shard)

    def _each_decoded(self, parts: Parts, size: int) -> Iterable[_Decoded]:
        decode = partial(_decode, stored=self._size, framing=self._framing, size=size)
        files, processes = self._files(parts), self._processes
        if processes is None:
            return in_order(decode, files, torch.get_num_threads())
        return processes.each(decode, files)

    def _files(self, parts: Parts) -> Iterator[_Files]:
        """The image files, read from their tars: those bytes and no others."""
        for shard, rows, at in parts:
            starts, sizes, digests = (
                self.store.mapped(shard, name)[rows] for name in ("start", "size", "sha256")
            )
            for first in range(0, len(rows), AT_ONCE):
                some = slice(first, first + AT_ONCE)
                ranges = list(zip(starts[some].tolist(), sizes[some].tolist(), strict=True))
                yield _Files(
                    shard,
                    rows[some].tolist(),
                    self._contents(shard, ranges),
                    [digest.tobytes() for digest in digests[some]],
                    at[some],
                )

    def _contents(self, shard: str, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Ranges of a shard's tar, or of this machine's copy of a remote one."""

        def read(file: Path | UPath) -> list[bytes]:
            return list(read_ranges(file, ranges))

        path = self._tar(shard)
        try:
            if is_local(path):
                return read(path)
            size = self._images.records[shard].bytes
            return read_copy(UPath(path), self.store.shard_digest(shard), read, size)
        except OSError as error:
            raise explained_read_error(error, path) or CorgiError(
                f"{path} cannot be read ({error.strerror or error})", "bring that file back"
            ) from error


def _decode(files: _Files, stored: int, framing: Framing, size: int) -> _Decoded:
    """The images of some files, squares of `stored` pixels to a side that are scaled to `size`."""
    images = []
    for row, content, sha256 in zip(files.rows, files.contents, files.digests, strict=True):
        if hashlib.sha256(content).digest() != sha256:
            raise _DamagedError(files.shard, row, "its SHA-256 is wrong")
        try:
            image = square(content, stored, framing)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's parsers raise whatever the damage makes them raise
            raise _DamagedError(files.shard, row, str(error)) from error
        images.append(at_size(torch.tensor(image)[None], size).numpy()[0])
    return files.at, np.stack(images)
