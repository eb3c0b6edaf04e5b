"""How often each training image is used, so that near twins count as one image.

Two thirds of all emoji are people in six skin tones, and as often as all others they would teach a
decoder people and little else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import faiss

TWIN_COSINE = 0.85  # from which two images are near twins
MAX_REPEATS = 4  # of an image without twins, for one use of an image in a family of as many
EXACT_UP_TO = 20_000  # embeddings; among more, twins are looked for in the nearest cells alone
CELLS = 4  # times √n cells
CELLS_SEARCHED = 8  # for each embedding
SAMPLE_PER_CELL = 39  # embeddings that the cells are found from; with fewer faiss warns
ITERATIONS = 4  # of k-means: cells need not be the best


def repeats_of(embeddings: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """How often each of the embeddings [n, d] is used: ⌊4 / c⌋ times where c are near twins.

    At least once. Slices of the encoders have equal mean squares, so a cosine here is the encoders'
    average. At most 4 twins are counted, an image among its own.

    Up to 20,000 embeddings all pairs are compared. Of more, each is compared with those of the
    nearest 8 of 4 √n cells, so that time grows as n^1.5: a twin in another cell is overlooked, and
    its image is then used a little more often.
    """
    if not len(embeddings):
        return np.zeros(0, dtype=np.uint8)
    directions = np.array(embeddings, dtype=np.float32, order="C")  # a copy, to be scaled in place
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    index = _index_of(directions)
    cosines, _ = index.search(directions, min(MAX_REPEATS, len(directions)))
    twins = (cosines >= TWIN_COSINE).sum(axis=1).clip(min=1)
    repeats: NDArray[np.uint8] = (MAX_REPEATS // twins).astype(np.uint8)
    return repeats


def _index_of(directions: NDArray[np.float32]) -> faiss.Index:
    """An index of unit vectors [n, d] by their inner products: exact, or of cells if n is large."""
    import faiss

    n, width = directions.shape
    exact = faiss.IndexFlatIP(width)
    if n <= EXACT_UP_TO:
        exact.add(directions)
        return exact
    cells = round(CELLS * n**0.5)
    index = faiss.IndexIVFScalarQuantizer(
        exact, width, cells, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
    )
    index.cp.niter, index.nprobe = ITERATIONS, CELLS_SEARCHED
    sample = np.random.default_rng(0).choice(n, min(n, SAMPLE_PER_CELL * cells), replace=False)
    index.train(directions[np.sort(sample)])
    index.add(directions)
    return index
