"""The order of training: every row once an epoch, shuffled, and found without what came before."""

from __future__ import annotations

import subprocess
import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corgi_core.training.order import TrainingOrder
from corgi_core.training.randomness import seed_of

ALL = 10**9


@given(
    shards=st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any),
    batch=st.integers(1, 70),
    window=st.integers(1, 80),
    seed=st.integers(0, 99),
)
def test_every_epoch_holds_every_row_once(
    shards: list[int], batch: int, window: int, seed: int
) -> None:
    order, rows = TrainingOrder(shards, batch, seed, window), sum(shards)
    steps = -(-3 * rows // batch)
    sequence = torch.cat([order.rows_of(step) for step in range(steps)])
    for epoch in range(3):
        part = sequence[epoch * rows : (epoch + 1) * rows]
        assert part.sort().values.tolist() == list(range(rows))
    fresh = TrainingOrder(shards, batch, seed, window)
    assert torch.equal(fresh.rows_of(steps - 1), order.rows_of(steps - 1))


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    order = TrainingOrder([60, 40], 100, 0, ALL)
    assert not torch.equal(order.rows_of(0), order.rows_of(1))
    assert not torch.equal(order.rows_of(0), TrainingOrder([60, 40], 100, 1, ALL).rows_of(0))


def test_a_window_that_holds_everything_shuffles_everything() -> None:
    """Over many seeds every row comes as often in the first tenth as in any other."""
    first = [TrainingOrder([50] * 10, 50, seed, ALL).rows_of(0) for seed in range(400)]
    counts = torch.bincount(torch.cat(first), minlength=500).double()
    assert abs(counts.mean() - 40) < 1e-9
    assert counts.var() < 1.3 * 40 * 0.9  # binomial: n p (1 − p)
    assert counts.min() > 15


def test_a_window_reads_few_shards_at_a_time_and_another_order_of_them_each_epoch() -> None:
    """A window of two shards' rows touches three shards at most; all rows of it are mixed."""
    order = TrainingOrder([100] * 50, 200, 0, 200)
    firsts = []
    for step in range(50):
        rows = order.rows_of(step)
        assert len(torch.unique(rows // 100)) <= 3
        assert (rows.diff() == 1).sum() < 20  # not in the order of the files
        firsts.append(int(rows[0]) // 100)
    assert firsts[:25] != firsts[25:]


@given(seed=st.integers(0, 9), cut=st.integers(1, 399))
@settings(max_examples=20)
def test_any_sample_is_found_by_its_number(seed: int, cut: int) -> None:
    order = TrainingOrder([30, 0, 71], 400, seed, 20)
    whole = order.rows_of(3)
    parts = order.rows_between(1200, 1200 + cut), order.rows_between(1200 + cut, 1600)
    assert torch.equal(torch.cat(parts), whole)


def test_memory_is_that_of_a_window_and_the_shards_at_a_billion_rows() -> None:
    """A permutation of all rows would take 8 GB."""
    program = """
import resource, torch
from corgi_core.training.order import TrainingOrder

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10  # MiB

torch.randperm(10)
before = peak()
order = TrainingOrder([10_000] * 100_000, 4096, 0, 1 << 20)
for step in (0, 200_000, 10**7):
    rows = order.rows_of(step)
    assert len(rows) == 4096 and 0 <= int(rows.min()) and int(rows.max()) < 10**9
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200


def test_one_shard_in_one_window_is_a_permutation_by_seed_and_epoch() -> None:
    """Against torch's permutation: the order that trainings on one shard have always had."""
    for epoch in range(3):
        stream = torch.Generator().manual_seed(seed_of("epoch", 5, epoch))
        expected = torch.randperm(40, generator=stream)
        assert torch.equal(TrainingOrder([40], 40, 5, ALL).rows_of(epoch), expected)
