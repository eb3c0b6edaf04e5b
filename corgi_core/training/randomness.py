"""Random numbers as a pure function of (seed, step, sample), so that nothing has to be resumed.

A run that was killed and continued has the random numbers of an uninterrupted one, and so has a run
on another number of workers: numbers are made for the global batch, and a worker takes its rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from the parts: unrelated streams for unrelated parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class StepRandom:
    """The random numbers of one step: one stream for each (seed, step, number of the call).

    Worker `rank` gets the rows rank · b … (rank + 1) · b − 1 of each call's numbers, where
    b = batch / world is its local batch.

    Args:
        seed: The run's seed.
        step: The step's number.
        batch: The size of the global batch.
        rank: The worker's number.
        world: The number of workers.
        device: Where the numbers are made.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        batch: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.seed, self.step, self.batch = seed, step, batch
        self.device = torch.device(device)
        local = batch // world
        self._rows = slice(rank * local, (rank + 1) * local)
        self._calls = 0

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 [b, *shape]; `shape` is that of one sample."""
        return self._rows_of(
            lambda size, g: torch.randn(size, generator=g, device=self.device), shape
        )

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), float32 [b, *shape]; `shape` is that of one sample."""
        return self._rows_of(
            lambda size, g: torch.rand(size, generator=g, device=self.device), shape
        )

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform in 0 … high − 1, long [b, *shape]; `shape` is that of one sample."""
        return self._rows_of(
            lambda size, g: torch.randint(high, size, generator=g, device=self.device), shape
        )

    def _rows_of(
        self, generate: Callable[[tuple[int, ...], torch.Generator], Tensor], shape: tuple[int, ...]
    ) -> Tensor:
        generator = torch.Generator(self.device)
        generator.manual_seed(seed_of("step", self.seed, self.step, self._calls))
        self._calls += 1
        return generate((self.batch, *shape), generator)[self._rows]


class BatchOrder:
    """Which rows make up which batch: epoch after epoch, each a fresh permutation of all rows.

    A batch may span the end of an epoch, so every row is used equally often to within one.
    """

    def __init__(self, rows: int, batch: int, seed: int) -> None:
        self._rows, self._batch, self._seed = rows, batch, seed
        self._epoch = lru_cache(maxsize=2)(self._permutation)

    def rows_of(self, step: int) -> Tensor:
        """The global batch of a step, long [batch], each in 0 … rows − 1."""
        start, end = step * self._batch, (step + 1) * self._batch
        chunks = []
        for epoch in range(start // self._rows, (end - 1) // self._rows + 1):
            first = epoch * self._rows
            chunks.append(self._epoch(epoch)[max(start - first, 0) : end - first])
        return torch.cat(chunks)

    def _permutation(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of("epoch", self._seed, epoch))
        return torch.randperm(self._rows, generator=generator)
