"""Batches cover all rows, and on a GPU they grow to what its memory holds and no further."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corgi_core.batches import batches, rows_that_fit


@given(count=st.integers(0, 50), usual=st.integers(1, 20))
def test_a_cpu_gets_batches_of_the_usual_size(count: int, usual: int) -> None:
    found = list(batches(count, torch.device("cpu"), usual))
    assert [row for rows in found for row in range(count)[rows]] == list(range(count))
    assert all(rows.stop - rows.start == usual for rows in found[:-1])


class Memory:
    """A GPU's memory, as torch.cuda reports it; a row takes `each` bytes, of which some stay."""

    def __init__(self, total: int, each: int, stays: int) -> None:
        self.total, self.each, self.stays = total, each, stays
        self.allocated = self.peak = 0

    def compute(self, rows: int) -> None:
        self.peak = max(self.peak, self.allocated + rows * self.each)
        assert self.peak <= self.total, "out of memory"
        self.allocated += rows * self.stays

    def reset(self) -> None:
        self.peak = self.allocated


@pytest.mark.parametrize("total", [100, 1_000, 100_000])
@pytest.mark.parametrize(("each", "stays"), [(10, 0), (10, 1), (3, 2)])
def test_a_gpu_gets_the_batches_that_fit(
    total: int, each: int, stays: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(total, each, stays)
    for name, answer in {
        "memory_allocated": lambda _: memory.allocated,
        "memory_reserved": lambda _: memory.allocated,
        "max_memory_allocated": lambda _: memory.peak,
        "reset_peak_memory_stats": lambda _: memory.reset(),
        "mem_get_info": lambda _: (total - memory.allocated, total),
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    count, sizes = total // (2 * each), []
    for rows in batches(count, torch.device("cuda"), usual=2):
        memory.compute(rows.stop - rows.start)
        sizes.append(rows.stop - rows.start)
    assert sum(sizes) == count
    assert sizes[0] == min(2, count)
    if count > 10:
        assert sizes[1] >= min(0.6 * total / each - 2, count - 2) - 2


def test_one_row_at_least_is_tried() -> None:
    assert rows_that_fit(free=0, used=100, rows=4) == 1
    assert rows_that_fit(free=10_000, used=0, rows=4) > 4
