"""Embeddings that are read as often as needed, in batches, and never held all at once."""

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
class EmbeddingStream:
    """`count` embeddings; every call of `read` yields them anew, as chunks [m, d] of any m.

    The chunks may be float16 or float32. Their rows come in the same order each time.
    """

    count: int
    read: Callable[[], Iterator[NDArray[np.floating[Any]]]]

    @classmethod
    def of_array(cls, embeddings: NDArray[np.floating[Any]]) -> EmbeddingStream:
        """Embeddings [n, d] that are in memory already."""
        return cls(len(embeddings), lambda: iter([embeddings]))

    def batches(self, what: str) -> Iterator[NDArray[np.float32]]:
        """All embeddings as float32 [≤ 4096, d], reporting progress as `what`.

        Raises CorgiError at an embedding that is not finite, and at the end if there were not
        `count` of them.
        """
        done = 0
        report(what, done, self.count)
        for chunk in self.read():
            for first in range(0, len(chunk), ROWS_AT_ONCE):
                batch = np.asarray(chunk[first : first + ROWS_AT_ONCE], dtype=np.float32)
                if not np.isfinite(batch).all():
                    raise CorgiError(
                        "an embedding is not finite", "materialise the embeddings again"
                    )
                yield batch
                done += len(batch)
                report(what, done, self.count)
        if done != self.count:
            raise CorgiError(
                f"there are {done} embeddings where {self.count} were expected",
                "materialise the embeddings again for the present images",
            )

    def sample(self, size: int, seed: int, what: str) -> NDArray[np.float32]:
        """`size` embeddings, uniformly without replacement, in their order; all if there are fewer.

        Which ones depends on (count, size, seed) alone, not on the chunks.
        """
        if size < self.count:
            random = np.random.default_rng(seed)
            rows = np.sort(random.choice(self.count, size, replace=False, shuffle=False))
        else:
            rows = np.arange(self.count)
        sampled = np.empty((len(rows), 0), dtype=np.float32)
        first = done = 0
        for batch in self.batches(what):
            if not done:
                sampled = np.empty((len(rows), batch.shape[1]), dtype=np.float32)
            last = int(np.searchsorted(rows, done + len(batch)))
            sampled[first:last] = batch[rows[first:last] - done]
            first, done = last, done + len(batch)
        return sampled
