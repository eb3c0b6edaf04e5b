"""Processes that compute for one process, and end with it, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import torch

from corgi_core.errors import CorgiError

Item = TypeVar("Item")
Result = TypeVar("Result")
PRELOADED = ["corgi_core.streaming.squares"]  # what the processes compute with


class LoaderProcesses:
    """So many processes, for any number of threads that call `each`.

    They are forked by a server that has imported what they compute with and does nothing else:
    neither threads nor a GPU's context are in them, and what is imported is in memory once.
    """

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    @classmethod
    @contextmanager
    def started(cls, count: int) -> Iterator[LoaderProcesses]:
        """Yield the processes, which are started as they are needed, and end them."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        with ProcessPoolExecutor(count, context, _begin) as pool:
            try:
                yield cls(pool)
            finally:
                pool.shutdown(cancel_futures=True)

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """function(item) of every item, in their order.

        Raises what `function` raises, and CorgiError where a process did not start or has ended.
        """
        try:
            yield from self._pool.map(function, items)
        except BrokenProcessPool as error:
            raise CorgiError(
                "a process that decodes images could not start or was ended, as the system does "
                "where memory runs out",
                "in a program of your own, start the training below if __name__ == '__main__'; "
                "else lower loader_processes of the training, and run it again: it goes on from "
                "its newest checkpoint",
            ) from error


def _begin() -> None:
    """Of a new process: leave Ctrl-C to the one that it computes for, and end when that ends.

    Torch has one thread in each, since there are several processes.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end_with_parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
