"""Running out of memory in one sentence: what ran, how much was missing, what to set lower."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from corgi_core.errors import CorgiError

GB = 1e9
# of the RuntimeErrors by which torch's allocators and libraries say it; the CPU's is the first
SIGNS = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
_TRIED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)


@contextmanager
def out_of_memory_explained(doing: str, remedy: str) -> Iterator[None]:
    """Turn running out of a GPU's or the machine's memory into a CorgiError.

    Args:
        doing: What is done inside, and at what size, to follow "while": "decoding 4 images".
        remedy: What to set lower.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as failure:
        if not ran_out(failure):
            raise
        raise CorgiError(
            f"{_device_of(failure)} ran out of memory while {doing}{_missing(failure)}", remedy
        ) from failure


def ran_out(failure: BaseException) -> bool:
    """Whether an exception says that memory is used up; torch.OutOfMemoryError always does."""
    if isinstance(failure, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(failure, RuntimeError) and any(sign in str(failure) for sign in SIGNS)


def _device_of(failure: BaseException) -> str:
    of_gpu = isinstance(failure, torch.OutOfMemoryError) or not (
        isinstance(failure, MemoryError) or SIGNS[0] in str(failure)
    )
    return "the GPU" if of_gpu else "this machine"


def _missing(failure: BaseException) -> str:
    found = _TRIED.search(str(failure))
    if not found:
        return ""
    amount, unit = found.groups()
    size = f"{float(amount) / GB:.2f} GB" if unit == "bytes" else f"{amount} {unit}"
    return f" ({size} more were needed)"
