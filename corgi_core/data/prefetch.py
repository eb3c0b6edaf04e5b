"""Work done ahead by threads: images are decoded while an encoder computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2  # results a thread that are under way or wait, so that one slow item holds up none


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Generator[Result]:
    """function(item) of every item, in their order, computed ahead by threads.

    The items are taken in the caller's thread, and only as the results are: memory holds no more
    than two items or results a thread.

    Args:
        function: Called in the threads. They run side by side where it leaves Python's lock, as
            Pillow's decoders and torch's operators do.
        items: What it is called with.
        threads: How many.

    Raises:
        What `function` or `items` raises; what is under way is waited for, and nothing else begun.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) == _AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`; the last may be shorter."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch
