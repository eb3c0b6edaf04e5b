"""Work ahead: in order, bounded, side by side, and ended by an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from corgi_core.data.prefetch import batched, in_order


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_items_order(threads: int) -> None:
    def late(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(in_order(late, iter(range(20)), threads)) == [item * item for item in range(20)]
    assert list(in_order(late, [], threads)) == []


def test_threads_work_side_by_side() -> None:
    meeting = threading.Barrier(2)  # passed only by two at once
    assert len(list(in_order(lambda _: meeting.wait(timeout=10), range(4), threads=2))) == 4


def test_no_more_than_two_items_a_thread_are_taken_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = in_order(lambda item: item, items(), threads=2)
    for got in range(10):
        assert next(results) == got
        assert len(taken) == got + 4
    results.close()
    assert len(taken) == 13


def test_an_error_ends_the_work() -> None:
    begun = []

    def fail(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise ValueError("three")
        return item

    results = in_order(fail, range(1000), threads=1)
    with pytest.raises(ValueError, match="three"):
        list(results)
    assert len(begun) <= 6


def test_batches_hold_all_items_in_order() -> None:
    assert list(batched(iter("abcde"), 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(batched([], 2)) == []
