"""What is measured in a process of its own, whose peak memory is nothing else's."""

from __future__ import annotations

import resource
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any, TypeVar

Result = TypeVar("Result")


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """function(*arguments), a top-level function's, in a process that has done nothing before."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def peak_gb() -> float:
    """The most resident memory that this process has had, in 10⁹ bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
