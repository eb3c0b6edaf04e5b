"""Random numbers as a pure function of (seed, step, sample), so that nothing has to be resumed.

A run that was killed and continued has the random numbers of an uninterrupted one, and so has a run
on another number of workers: a sample's numbers depend on where it is in the global batch, and a
worker makes those of its own samples alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

CHUNK = 2**17  # numbers that one stream makes at most, unless one sample has more


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from the parts: unrelated streams for unrelated parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class StepRandom:
    """The random numbers of one step: one stream for each (seed, step, number of the call, chunk).

    A chunk is consecutive samples of the global batch: the power of two of them that have up to
    131,072 numbers in the call, or one. Worker `rank` gets the rows rank · b … (rank + 1) · b − 1
    of each call's numbers, where b = batch / world is its local batch, and makes the chunks that
    hold them alone.

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
        self.device = self._made_on = torch.device(device)
        local = batch // world
        self._first, self._end = rank * local, (rank + 1) * local
        self._calls = 0

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 [b, *shape]; `shape` is that of one sample."""
        return self._filled(shape, torch.float32, lambda out, g: out.normal_(generator=g))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), float32 [b, *shape]; `shape` is that of one sample."""
        return self._filled(shape, torch.float32, lambda out, g: out.uniform_(generator=g))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform in 0 … high − 1, long [b, *shape]; `shape` is that of one sample."""
        return self._filled(shape, torch.long, lambda out, g: out.random_(0, high, generator=g))

    def _filled(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        fill: Callable[[Tensor, torch.Generator], Tensor],
    ) -> Tensor:
        rows = _power_of_two_up_to(CHUNK // max(1, math.prod(shape)))
        chunks = range(self._first // rows, -(-self._end // rows))
        start, stop = chunks.start * rows, min(chunks.stop * rows, self.batch)
        numbers = torch.empty((stop - start, *shape), dtype=dtype, device=self._made_on)
        generator = torch.Generator(self._made_on)
        for chunk in chunks:
            later = (chunk,) if chunk else ()  # what fits into one chunk has the call's stream
            generator.manual_seed(seed_of("step", self.seed, self.step, self._calls, *later))
            fill(numbers[chunk * rows - start :][:rows], generator)
        self._calls += 1
        return numbers[self._first - start : self._end - start].to(self.device)


class HeldOutRandom(StepRandom):
    """The random numbers of some of the held-out samples, the same at every evaluation.

    They are those of a step of all held-out samples, made on the CPU and moved. So a sample has
    the same numbers on every device and in every batch.

    Args:
        samples: How many samples are held out.
        rows: Which of them are evaluated now.
        device: Where the numbers are needed.
    """

    def __init__(self, samples: int, rows: slice, device: torch.device | str = "cpu") -> None:
        super().__init__(0, 0, samples, device=device)
        self._made_on = torch.device("cpu")
        self._first, self._end, _ = rows.indices(samples)


def _power_of_two_up_to(limit: int) -> int:
    """The largest power of two that is at most `limit`, and at least 1."""
    return 1 << max(0, limit.bit_length() - 1)
