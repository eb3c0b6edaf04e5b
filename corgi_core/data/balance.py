"""How often each training image is used, so that near twins count as one image.

Two thirds of all emoji are people in six skin tones, and as often as all others they would teach a
decoder people and little else.

Twins are looked for in cells of about a thousand embeddings. What is known of all images at once
lies in scratch files: the cells that each image's twins may be in. Memory holds a byte an image, a
sample of the embeddings, and the embeddings that are being compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corgi_core.io.scratch import scratch_folder
from corgi_core.progress import track

TWIN_COSINE = 0.85  # from which two images are near twins
MAX_REPEATS = 4  # of an image without twins, for one use of an image in a family of as many
EXACT_UP_TO = 20_000  # embeddings; among more, twins are looked for in the nearest cells alone
CELL_SIZE = 1000  # embeddings in a cell, on average, up to …
MAX_CELLS = 2**13  # … so many cells
CELLS_SEARCHED = 8  # for each embedding
SAMPLE_PER_CELL = 39  # embeddings that the cells are found from, up to …
MAX_SAMPLE = 2**15  # … so many embeddings
ITERATIONS = 4  # of k-means: cells need not be the best
ROWS_AT_ONCE = 4096
MEMBERS_AT_ONCE = 8192

Read = Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]]
"""From numbers of images [b] to their embeddings [b, d]."""


def repeats_of(read: Read, count: int) -> NDArray[np.uint8]:
    """How often each image is used: ⌊4 / c⌋ times where c are near twins, at least once.

    Slices of the encoders have equal mean squares, so a cosine here is the encoders' average. At
    most 4 twins are counted, an image among its own.

    Up to 20,000 images all pairs are compared. Of more, each is compared with those of the nearest
    8 cells, so that time is linear up to 8 million images: a twin in another cell is overlooked,
    and its image is then used a little more often. None is invented.

    Args:
        read: Reads embeddings.
        count: The number of images n.

    Returns:
        1 … 4 for each image, uint8 [n].
    """
    twins = np.zeros(count, np.uint8)
    with scratch_folder("corgi-twins-") as folder:
        if count <= EXACT_UP_TO:
            every = np.arange(count)
            _count_twins(read, every, every, twins)
        else:
            cells = min(count // CELL_SIZE, MAX_CELLS)
            nearest = _nearest_cells(read, count, cells, folder / "nearest")
            members = _rows_by_cell(nearest[:, :1], cells, folder / "members")
            visitors = _rows_by_cell(nearest, cells, folder / "visitors")
            pairs = zip(members, visitors, strict=True)
            for its_members, its_visitors in track(pairs, "looking for near twins", cells):
                _count_twins(read, its_members, its_visitors, twins)
    repeats: NDArray[np.uint8] = MAX_REPEATS // twins.clip(min=1)
    return repeats


def _count_twins(
    read: Read, members: NDArray[Any], visitors: NDArray[Any], twins: NDArray[np.uint8]
) -> None:
    """Add to the `twins` of visitors [v], up to 4, those that are among the members [m]."""
    import faiss

    for some in _parts(members, MEMBERS_AT_ONCE):
        uncertain = visitors[twins[visitors] < MAX_REPEATS]
        if not len(uncertain):
            break
        among = _directions(read(some))
        most = min(MAX_REPEATS, len(among))
        for batch in _parts(uncertain, ROWS_AT_ONCE):
            z = _directions(read(batch))
            cosines, _ = faiss.knn(z, among, most, metric=faiss.METRIC_INNER_PRODUCT)
            found = twins[batch] + (cosines >= TWIN_COSINE).sum(axis=1)
            twins[batch] = np.minimum(found, MAX_REPEATS)


def _nearest_cells(read: Read, count: int, cells: int, path: Path) -> NDArray[np.uint16]:
    """The 8 nearest cells of each of n embeddings, nearest first: [n, 8], in a file."""
    import faiss

    size = min(count, SAMPLE_PER_CELL * cells, MAX_SAMPLE)
    sample = _directions(read(np.linspace(0, count - 1, size).astype(np.int64)))
    kmeans = faiss.Kmeans(
        sample.shape[1], cells, niter=ITERATIONS, spherical=True, seed=0,
        min_points_per_centroid=1, max_points_per_centroid=size,
    )  # fmt: skip
    kmeans.train(sample)
    shape = (count, min(CELLS_SEARCHED, cells))
    nearest: NDArray[np.uint16] = np.memmap(path, np.uint16, "w+", shape=shape)
    for first in range(0, count, ROWS_AT_ONCE):
        rows = np.arange(first, min(first + ROWS_AT_ONCE, count))
        _, found = kmeans.index.search(_directions(read(rows)), shape[1])
        nearest[rows] = found
    return nearest


def _rows_by_cell(
    nearest: NDArray[np.uint16], cells: int, path: Path
) -> Iterator[NDArray[np.int64]]:
    """For each cell, the rows of `nearest` [n, c] that name it, in their order, from a file."""
    parts = [slice(i, i + ROWS_AT_ONCE) for i in range(0, len(nearest), ROWS_AT_ONCE)]
    sizes = np.zeros(cells, np.int64)
    for part in parts:
        sizes += np.bincount(nearest[part].ravel(), minlength=cells)
    ends = np.cumsum(sizes)
    begins, after = ends - sizes, ends - sizes
    rows: NDArray[np.uint32] = np.memmap(path, np.uint32, "w+", shape=(nearest.size,))
    for part in parts:
        cell = nearest[part].ravel()
        order = np.argsort(cell, kind="stable")
        found, first, number = np.unique(cell[order], return_index=True, return_counts=True)
        at = np.repeat(after[found] - first, number) + np.arange(len(order))
        rows[at] = part.start + order // nearest.shape[1]
        after[found] += number
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        yield rows[begin:end].astype(np.int64)


def _parts(rows: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    """The rows, so many at a time."""
    return (rows[first : first + size] for first in range(0, len(rows), size))


def _directions(z: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Embeddings [n, d] scaled to norm 1, as a copy."""
    directions = np.array(z, dtype=np.float32, order="C")
    directions /= np.linalg.norm(directions, axis=1, keepdims=True).clip(min=1e-12)
    return directions
