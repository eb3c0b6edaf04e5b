"""Shards of arrays, mapped into memory: the rows that are asked for are read, and no others.

A file's SHA-256 is verified when this process first reads rows of it, and not again.
"""

from __future__ import annotations

import hashlib
import json
import resource
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from corgi_core.errors import CorgiError
from corgi_core.io.read_errors import explained_read_error


def _limit_of_maps() -> int:
    """A map holds its file open: a quarter of what the system allows this process."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if allowed == resource.RLIM_INFINITY else min(4096, max(16, allowed // 4))


OPEN = _limit_of_maps()  # files that are mapped at once
_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16,
    "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_CHUNK = 1 << 22  # bytes that are hashed at once


def mapped_arrays(path: Path, sha256: str | None) -> Mapping[str, np.ndarray]:
    """The arrays of a safetensors file by name, read-only, as they lie on the disk.

    Args:
        path: The file.
        sha256: What its bytes must hash to; None to trust them.

    Raises:
        CorgiError: the file is not there, or is damaged.
    """
    try:
        state = path.stat()
        if sha256 is not None:
            _verify(path, sha256, state.st_size, state.st_mtime_ns)
        return _mapped(path, state.st_size, state.st_mtime_ns)
    except CorgiError:
        raise
    except FileNotFoundError as error:
        raise CorgiError(f"{path} is not there any more", "compute the arrays again") from error
    except OSError as error:
        raise explained_read_error(error, path) or _damaged(path, str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, str(error)) from error


@lru_cache(maxsize=OPEN)
def _mapped(path: Path, size: int, changed: int) -> Mapping[str, np.ndarray]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ValueError("its header is cut off")
        header = json.loads(file.read(length))
    content = np.memmap(path, mode="r").view(np.ndarray)[8 + length :]
    arrays: dict[str, np.ndarray] = {}
    for name, about in header.items():
        if name != "__metadata__":
            begin, end = about["data_offsets"]
            values: np.ndarray = content[begin:end].view(_TYPES[about["dtype"]])
            arrays[name] = values.reshape(about["shape"])
    return arrays


@lru_cache(maxsize=1 << 20)
def _verify(path: Path, sha256: str, size: int, changed: int) -> None:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    if found.hexdigest() != sha256:
        raise _damaged(path, "its SHA-256 is wrong")


def _damaged(path: Path, why: str) -> CorgiError:
    return CorgiError(f"{path} is damaged: {why}", "compute the arrays again")
