"""The order of training: a function of (seed, epoch) that is computed for any sample by itself.

Every epoch permutes the shards, lays their rows one after the other and shuffles them within
windows of consecutive rows. So memory holds the number of rows of every shard and one or two
windows, never all rows. Any step's batch is found without those before it: a run resumes at once,
and the batches are the same whatever the number of workers that share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from corgi_core.training.randomness import seed_of


class TrainingOrder:
    """Which rows make up which batch: epoch after epoch, each with every row once.

    Rows are numbered 0 … n − 1 in the shards' order. A batch may span the end of an epoch, so every
    row is used equally often to within one.

    Args:
        shard_rows: The number of rows of each shard.
        batch: The size of a batch.
        seed: The run's seed.
        window: How many rows are shuffled together; all of them where there are no more.
    """

    def __init__(self, shard_rows: Sequence[int], batch: int, seed: int, window: int) -> None:
        self._sizes = torch.tensor(shard_rows, dtype=torch.long)
        self._firsts = self._sizes.cumsum(0) - self._sizes
        self._rows, self._batch = int(self._sizes.sum()), batch
        self._seed, self._window = seed, window
        self._shards = lru_cache(maxsize=2)(self._permuted_shards)
        self._shuffled = lru_cache(maxsize=2)(self._shuffled_window)

    def rows_of(self, step: int) -> Tensor:
        """The global batch of a step, long [batch], each in 0 … n − 1."""
        return self.rows_between(step * self._batch, (step + 1) * self._batch)

    def rows_between(self, first: int, end: int) -> Tensor:
        """The rows of the samples number `first` … `end` − 1, counted over all epochs."""
        chunks = []
        while first < end:
            epoch, position = divmod(first, self._rows)
            window, inside = divmod(position, self._window)
            chunk = self._shuffled(epoch, window)[inside : inside + end - first]
            chunks.append(chunk)
            first += len(chunk)
        return torch.cat(chunks)

    def _shuffled_window(self, epoch: int, window: int) -> Tensor:
        """The rows of a window in the order in which they are used."""
        shards, ends = self._shards(epoch)
        first = window * self._window
        size = min(self._window, self._rows - first)
        later = (window,) if window else ()  # what fits into one window has the epoch's stream
        generator = torch.Generator().manual_seed(seed_of("epoch", self._seed, epoch, *later))
        positions = first + torch.randperm(size, generator=generator)
        at = torch.searchsorted(ends, positions, right=True)
        shard = shards[at]
        return self._firsts[shard] + positions - (ends[at] - self._sizes[shard])

    def _permuted_shards(self, epoch: int) -> tuple[Tensor, Tensor]:
        """An epoch's order of the shards, and where each of them ends in it; both [shards]."""
        generator = torch.Generator().manual_seed(seed_of("shards", self._seed, epoch))
        shards = torch.randperm(len(self._sizes), generator=generator)
        return shards, self._sizes[shards].cumsum(0)
