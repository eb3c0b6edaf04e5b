"""Embeddings that are read as often as needed, a block at a time, and never held all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError
from corgi_core.progress import report

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Points:
    """`count` embeddings; every call of `chunks` yields them anew, as arrays [m, d] of any m.

    The pieces may be float16 or float32 and come in the same order each time.
    """

    count: int
    chunks: Callable[[], Iterator[NDArray[np.floating[Any]]]]

    @classmethod
    def of(cls, embeddings: NDArray[np.floating[Any]]) -> Points:
        """Embeddings [n, d] that are in memory already."""
        return cls(len(embeddings), lambda: iter([embeddings]))

    def encoder_dims(self, what: str) -> Iterator[NDArray[np.float32]]:
        """All points as float32 [≤ 4096, d], reporting progress as `what`.

        Raises CorgiError at an embedding that is not finite, and at the end if there were more or
        fewer than `count`.
        """
        done = 0
        report(what, done, self.count)
        for chunk in self.chunks():
            for first in range(0, len(chunk), ROWS_AT_ONCE):
                block = np.asarray(chunk[first : first + ROWS_AT_ONCE], dtype=np.float32)
                if not np.isfinite(block).all():
                    raise CorgiError(
                        "an embedding is not finite", "materialise the embeddings again"
                    )
                yield block
                done += len(block)
                report(what, done, self.count)
        if done != self.count:
            raise CorgiError(
                f"there are {done} embeddings where {self.count} were expected",
                "materialise the embeddings again for the present images",
            )

    def sample(self, size: int, seed: int, what: str) -> NDArray[np.float32]:
        """`size` of the points, uniformly and without replacement, in their order; all if fewer.

        Which ones is decided by (count, size, seed) alone, however the points come in pieces.
        """
        if size < self.count:
            random = np.random.default_rng(seed)
            rows = np.sort(random.choice(self.count, size, replace=False, shuffle=False))
        else:
            rows = np.arange(self.count)
        sampled = np.empty((len(rows), 0), dtype=np.float32)
        first = done = 0
        for block in self.encoder_dims(what):
            if not done:
                sampled = np.empty((len(rows), block.shape[1]), dtype=np.float32)
            last = int(np.searchsorted(rows, done + len(block)))
            sampled[first:last] = block[rows[first:last] - done]
            first, done = last, done + len(block)
        return sampled
