"""The queue gives every job all its results once, whatever is cancelled meanwhile."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from corgi_core.serving.queue import CancelledError, ClosedError, FullError, WorkQueue

REQUESTS = 10_000


def worker(queue: WorkQueue[int, int], batches: list[int]) -> threading.Thread:
    """Negates items."""

    def work() -> None:
        while (batch := queue.take()) is not None:
            items = [item for part in batch for item in part.items]
            batches.append(len(items))
            queue.finish(batch, [-item for item in items])

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_ten_thousand_requests_half_of_them_cancelled_leave_nothing_stuck() -> None:
    queue: WorkQueue[int, int] = WorkQueue(capacity=64, batch_size=16)
    batches: list[int] = []
    thread = worker(queue, batches)

    def client(number: int) -> tuple[int, int, int]:
        random_ = random.Random(number)
        made = cancelled = refused = 0
        for i in range(REQUESTS // 8):
            items = [random_.randrange(10**6) for _ in range(random_.randint(1, 40))]
            while True:
                try:
                    job = queue.submit(items, key=random_.randrange(2))
                except FullError:
                    refused += 1
                    threading.Event().wait(1e-4)
                    continue
                break
            was_cancelled = bool(i % 2) and queue.cancel(job)
            if was_cancelled:
                with pytest.raises(CancelledError):
                    job.result.result(10)
                cancelled += 1
            else:
                assert job.result.result(10) == [-item for item in items]
                made += 1
        return made, cancelled, refused

    with ThreadPoolExecutor(8) as pool:
        counts = [sum(column) for column in zip(*pool.map(client, range(8)), strict=True)]
    assert counts[0] + counts[1] == REQUESTS
    assert counts[1] > REQUESTS / 4  # the others were faster than their cancellation
    assert queue.size == 0
    assert max(batches) == 16
    queue.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_batch_is_of_one_key_and_takes_what_waits() -> None:
    queue: WorkQueue[str, str] = WorkQueue(capacity=10, batch_size=3)
    for items, key in (("ab", 1), ("x", 2), ("cd", 1)):
        queue.submit(items, key)
    taken = [queue.take() for _ in range(3)]
    assert [["".join(part.items) for part in batch or ()] for batch in taken] == [
        ["ab", "c"], ["x"], ["d"],
    ]  # fmt: skip


def test_a_large_job_does_not_hold_up_a_small_one() -> None:
    queue: WorkQueue[str, str] = WorkQueue(capacity=10, batch_size=2)
    large, small = queue.submit("aaaaaa", 1), queue.submit("b", 1)
    order = []
    while queue.size:
        batch = queue.take()
        assert batch
        items = [item for part in batch for item in part.items]
        order.append("".join(items))
        queue.finish(batch, [item.upper() for item in items])
    assert order == ["aa", "ba", "aa", "a"]
    assert small.result.result(0) == ["B"]
    assert large.result.result(0) == ["A"] * 6


def test_items_of_weight_count_as_many() -> None:
    queue: WorkQueue[str, str] = WorkQueue(capacity=10, batch_size=2)
    way = queue.submit("a", 1, weight=9)
    with pytest.raises(FullError, match="9 of 10 pictures are waiting, and 2 more"):
        queue.submit("bc", 2)
    behind = queue.submit("b", 2)
    assert (queue.size, queue.ahead_of(behind)) == (10, 9)
    batch = queue.take()
    assert batch
    queue.finish(batch, ["A"])
    assert (queue.size, way.result.result(0)) == (1, ["A"])
    assert queue.cancel(queue.submit("d", 1, weight=9))
    assert queue.size == 1


@pytest.mark.parametrize("is_computed", [False, True])
def test_a_cancelled_job_frees_its_slot_at_once(is_computed: bool) -> None:
    queue: WorkQueue[str, str] = WorkQueue(capacity=4, batch_size=2)
    job = queue.submit("abcd", 1)
    with pytest.raises(FullError, match="4 of 4 pictures are waiting, and 1 more"):
        queue.submit("e", 1)
    batch = queue.take() if is_computed else []
    assert queue.cancel(job)
    assert queue.size == 0
    assert not queue.cancel(job)
    other = queue.submit("wxyz", 1)
    assert batch is not None
    queue.finish(batch, ["late"] * sum(len(part.items) for part in batch))
    assert queue.size == 4
    assert not other.result.done()


def test_a_closed_queue_finishes_what_it_has() -> None:
    queue: WorkQueue[str, str] = WorkQueue(capacity=4, batch_size=1)
    first, second = queue.submit("a", 1), queue.submit("b", 1)
    queue.close()
    with pytest.raises(ClosedError, match="stopping"):
        queue.submit("c", 1)
    batch = queue.take()
    assert batch
    queue.finish(batch, ["A"])
    running = queue.take()
    queue.abandon()
    assert running
    queue.finish(running, ["late"])
    assert queue.take() is None
    assert queue.size == 0
    assert first.result.result(0) == ["A"]
    with pytest.raises(ClosedError, match="stopped"):
        second.result.result(0)
