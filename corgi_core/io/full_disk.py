"""A full disk as an error that says which folder lacks space."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from upath import UPath

from corgi_core.errors import CorgiError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def full_disk_explained(
    folder: Path | UPath,
    then: Callable[[], str] = lambda: "materialise again; what is stored whole stays",
) -> Iterator[None]:
    """Turn a full disk, or a used-up quota, into a CorgiError.

    Args:
        folder: where the block writes.
        then: says what to do once there is space.
    """
    try:
        yield
    except (OSError, SafetensorError) as failure:
        if not _is_full_disk(failure):
            raise
        raise CorgiError(
            f"the disk of {folder} is full", f"free space there and {then()}"
        ) from failure


def _is_full_disk(failure: OSError | SafetensorError) -> bool:
    if isinstance(failure, OSError):
        return failure.errno in FULL
    return any(os.strerror(number) in str(failure) for number in FULL)
