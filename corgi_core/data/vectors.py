"""Precomputed embeddings, one file an image, where a dataset of pictures has the picture.

The file is an .npy of one record with a field for each CLIP encoder: its name, its width d_b and
its float type are in the header. So every vector says by itself which space it belongs to.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError

Blocks = Mapping[str, NDArray[np.floating[Any]]]  # [d_b] of float16 or float32, by encoder
VECTOR = "npy"  # the suffix of such files, where pictures have "png", "jpg", …
FLOATS = (np.float16, np.float32)


@dataclass(frozen=True)
class Space:
    """Which encoders made a vector, in their order, and the widths d_b of their blocks."""

    names: tuple[str, ...]
    encoder_dims: tuple[int, ...]

    @classmethod
    def of(cls, outputs: Blocks) -> Self:
        """The space of one image's vectors."""
        return cls(tuple(outputs), tuple(block.size for block in outputs.values()))

    def __str__(self) -> str:
        return ", ".join(f"{n} ({w})" for n, w in zip(self.names, self.encoder_dims, strict=True))


def vector_file(outputs: Blocks) -> bytes:
    """The file of one image's blocks; the same blocks give the same bytes."""
    fields = [(name, block.dtype, block.shape) for name, block in outputs.items()]
    record = np.zeros((), dtype=fields)
    for name, block in outputs.items():
        record[name] = block
    content = io.BytesIO()
    np.save(content, record, allow_pickle=False)
    return content.getvalue()


def read_vector(file: bytes) -> tuple[Space, NDArray[np.float32]]:
    """What `vector_file` wrote: the space, and all blocks side by side, float32 [d].

    Raises CorgiError where the bytes are not such a file.
    """
    try:
        record = np.load(io.BytesIO(file), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _no_vector(str(error)) from error
    if not isinstance(record, np.ndarray) or record.shape != () or not record.dtype.names:
        raise _no_vector("it is no record of encoders' blocks")
    outputs = {name: np.asarray(record[name]) for name in record.dtype.names}
    if any(block.ndim != 1 or block.dtype not in FLOATS for block in outputs.values()):
        raise _no_vector("its blocks are not all vectors of float16 or float32")
    return Space.of(outputs), np.concatenate([*outputs.values()]).astype(np.float32)


def _no_vector(why: str) -> CorgiError:
    return CorgiError(
        f"a file of the dataset is no precomputed embedding ({why})",
        "use a preset with pictures, or ingest with --format embeddings",
    )
