"""How many samples are computed at once: on a GPU, as many as its memory holds."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from corgi_core.devices import free_memory

USED = 0.7  # of the free memory; the rest is for kernels that want more than a smaller batch's


def batches(count: int, device: torch.device, usual: int) -> Iterator[slice]:
    """The rows 0 … count − 1, batch by batch.

    A CPU gets batches of the usual size. A GPU gets one of that size, whose memory is measured
    until the next batch is asked for, then batches of the size for which there is memory.

    Args:
        count: How many rows there are.
        device: Where they are computed.
        usual: A number of rows whose memory a small device has.
    """
    first, size = 0, usual
    while first < count:
        rows = slice(first, min(first + size, count))
        if device.type != "cuda":
            yield rows
        else:
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            yield rows
            used = torch.cuda.max_memory_allocated(device) - before
            size = rows_that_fit(free_memory(device), used, rows.stop - rows.start)
        first = rows.stop


def rows_that_fit(free: int, used: int, rows: int) -> int:
    """How many rows fit into the free memory if `rows` of them used so many bytes; at least one."""
    return max(1, int(USED * free * rows / max(1, used)))
