"""A chunk's captions in batches, which threads share on a CPU and a GPU takes one by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from corgi_core.data.prefetch import in_order
from corgi_core.devices import one_thread_each
from corgi_core.progress import muted

Columns = dict[str, np.ndarray]
"""Arrays by name, with the same number of rows each."""


def in_batches(
    function: Callable[[NDArray[np.int64]], Columns],
    count: int,
    size: int,
    device: torch.device,
    threads: int,
) -> Columns:
    """function(batch) of all batches, joined.

    The batches decide the rounding of the results, so they depend on no number of threads.

    Args:
        function: Rows [b] → arrays [b, …] by name. On a CPU called in threads.
        count: Of the rows, 0 … count − 1; at least one.
        size: The rows of a batch, at most.
        device: Where the function computes.
        threads: How many of them, on a CPU.
    """

    def silent(batch: NDArray[np.int64]) -> Columns:
        with muted():
            return function(batch)

    batches = np.split(np.arange(count), range(size, count, size))
    with one_thread_each():
        on_cpu = device.type == "cpu"
        parts = list(in_order(silent, batches, threads) if on_cpu else map(silent, batches))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
