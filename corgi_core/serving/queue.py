"""One bounded queue of work for all who ask, and batches of it for the one that computes.

A job is a number of items that its owner waits for. A batch takes what waits at this moment, from
as many jobs as fit, if their `key` is the same; nothing is delayed to fill it. A job with more
items than a batch goes to the end of the queue after each of its batches, so that a large one does
not hold up small ones. A cancelled job frees its part of the queue at once, also while it is
computed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from corgi_core.errors import CorgiError

Item = TypeVar("Item")
Result = TypeVar("Result")


class FullError(CorgiError):
    """The queue has no room for a job."""


class ClosedError(CorgiError):
    """The queue takes nothing any more."""


class CancelledError(CorgiError):
    """A job was cancelled."""


@dataclass(eq=False)
class Job(Generic[Item, Result]):
    """Items of one owner.

    Attributes:
        items: What is to be computed.
        key: Only items of equal keys are computed together.
        weight: As so many items each of them counts in the queue.
        result: All results, in the items' order; or why there are none.
    """

    items: Sequence[Item]
    key: Hashable
    weight: int = 1
    result: Future[list[Result]] = field(default_factory=Future)
    _found: dict[int, Result] = field(default_factory=dict)
    _taken: int = 0
    _ended: bool = False

    @property
    def made(self) -> int:
        """Results that are there."""
        return len(self._found)


@dataclass(frozen=True)
class Part(Generic[Item, Result]):
    """Consecutive items of one job in a batch."""

    job: Job[Item, Result]
    first: int
    items: Sequence[Item]


Batch = list[Part[Item, Result]]


class WorkQueue(Generic[Item, Result]):
    """The queue; every method may be called from every thread.

    Args:
        capacity: Items that were accepted and are not computed, at most.
        batch_size: Items of a batch, at most.
    """

    def __init__(self, capacity: int, batch_size: int) -> None:
        self.capacity, self.batch_size = capacity, batch_size
        self._waiting: OrderedDict[Job[Item, Result], None] = OrderedDict()
        self._unfinished: set[Job[Item, Result]] = set()
        self._changed = threading.Condition()
        self._size = 0
        self._closed = False

    @property
    def size(self) -> int:
        """Items that were accepted and are not computed."""
        return self._size

    def submit(self, items: Sequence[Item], key: Hashable, weight: int = 1) -> Job[Item, Result]:
        """Accept a job.

        Raises:
            FullError: If the queue has no room for so many items.
            ClosedError: If it is closed.
        """
        job: Job[Item, Result] = Job(items, key, weight)
        job.result.set_running_or_notify_cancel()  # so that only `cancel` can end it
        with self._changed:
            self._check_room(len(items) * weight)
            self._size += len(items) * weight
            self._waiting[job] = None
            self._unfinished.add(job)
            self._changed.notify()
        return job

    def check_room(self, count: int) -> None:
        """Raises what `submit` would for so many items, before work is done for them."""
        with self._changed:
            self._check_room(count)

    def ahead_of(self, job: Job[Item, Result]) -> int:
        """Items of other jobs that are taken before a job's next ones; 0 if it waits no more."""
        with self._changed:
            waiting = list(self._waiting)
        before = waiting[: waiting.index(job)] if job in waiting else []
        return sum((len(each.items) - each._taken) * each.weight for each in before)

    def cancel(self, job: Job[Item, Result]) -> bool:
        """Drop a job, whose result is then a CancelledError; False where it has ended before."""
        return self._end(
            job, CancelledError("the request was cancelled", "send it again if it was a mistake")
        )

    def take(self) -> Batch[Item, Result] | None:
        """The next batch, as soon as anything waits; None when the queue is closed and empty."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            return self._next_batch()

    def finish(self, batch: Batch[Item, Result], results: Sequence[Result]) -> None:
        """Hand out the results of a batch's items, in their order."""
        remaining = iter(results)
        for part in batch:
            found = {part.first + i: next(remaining) for i in range(len(part.items))}
            self._store(part.job, found)

    def fail(self, batch: Batch[Item, Result], error: BaseException) -> None:
        """End the jobs of a batch with an error."""
        for part in batch:
            self._end(part.job, error)

    def close(self) -> None:
        """Take no further jobs; those that were accepted are still computed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Close the queue and end all jobs, those of a batch that is computed too."""
        self.close()
        with self._changed:
            unfinished = list(self._unfinished)
        for job in unfinished:
            self._end(job, ClosedError("the server has stopped", "ask again when it has started"))

    def _check_room(self, count: int) -> None:
        if self._closed:
            raise ClosedError("the server is stopping", "ask again when it has started again")
        if self._size + count > self.capacity:
            raise FullError(
                f"{self._size} of {self.capacity} pictures are waiting, and {count} more "
                "do not fit",
                "wait as long as Retry-After says, and ask again",
            )

    def _next_batch(self) -> Batch[Item, Result]:
        key = next(iter(self._waiting)).key
        batch: Batch[Item, Result] = []
        room = self.batch_size
        for job in [job for job in self._waiting if job.key == key]:
            items = job.items[job._taken : job._taken + room]
            batch.append(Part(job, job._taken, items))
            job._taken += len(items)
            room -= len(items)
            if job._taken == len(job.items):
                del self._waiting[job]
            else:
                self._waiting.move_to_end(job)
            if not room:
                break
        return batch

    def _store(self, job: Job[Item, Result], found: dict[int, Result]) -> None:
        with self._changed:
            if job._ended:
                return
            job._found |= found
            self._size -= len(found) * job.weight
            job._ended = is_whole = len(job._found) == len(job.items)
            if is_whole:
                self._unfinished.remove(job)
        if is_whole:
            job.result.set_result([job._found[i] for i in range(len(job.items))])

    def _end(self, job: Job[Item, Result], error: BaseException) -> bool:
        with self._changed:
            if job._ended:
                return False
            job._ended = True
            self._waiting.pop(job, None)
            self._unfinished.remove(job)
            self._size -= (len(job.items) - len(job._found)) * job.weight
        job.result.set_exception(error)
        return True
