"""How often an image is shown in training: near twins share one turn.

Sets of pictures have families. Two thirds of all emoji are people in six skin tones; shown equally
often, they would teach a decoder people and little else. Captions play no part here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NEAR = 0.85  # cosine from which two images are twins
MOST = 4  # turns of an image without twins, for one turn of an image in a family of as many


def balanced_rows(embeddings: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Rows of embeddings [n, d], each at least once, ⌊4 / c⌋ times where c are twins of each other.

    The embeddings' blocks have equal mean squares, so a cosine here is the blocks' average. At most
    4 twins are counted, themselves included.
    """
    import faiss

    directions = np.ascontiguousarray(embeddings, dtype=np.float32)
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(directions.shape[1])
    index.add(directions)
    cosines, _ = index.search(directions, min(MOST, len(directions)))
    twins = (cosines >= NEAR).sum(axis=1).clip(min=1)
    return np.repeat(np.arange(len(directions)), MOST // twins)
