"""The gate's tables beside a shard's manifest: what it left out or changed, and what images are.

<folder>/quarantine/00000.parquet    `QUARANTINE`
<folder>/pixels/00000.parquet        `PIXELS`
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from upath import UPath

from corgi_core.data.parquet import opened, read_arrow

MOVED = "moved"  # the action on an image that is in another split than the raw dataset has it in
QUARANTINE = pa.schema([(name, pa.string()) for name in ("key", "reason", "detail", "action")])
PIXELS = pa.schema(
    [
        ("key", pa.string()),
        ("digest", pa.string()),  # of the decoded pixels, or of the embedding
        ("hash", pa.uint64()),  # perceptual; null for an embedding, and an image that shows nothing
    ]
)


def quarantine_path(folder: Path | UPath, shard: str) -> Path | UPath:
    """Where it says what was left out of a shard, changed or moved."""
    return folder / "quarantine" / f"{shard}.parquet"


def pixels_path(folder: Path | UPath, shard: str) -> Path | UPath:
    """Where the digests and hashes of a shard's images are."""
    return folder / "pixels" / f"{shard}.parquet"


def read_hashes(
    folder: Path | UPath, shard: str
) -> tuple[list[str], NDArray[np.uint64], NDArray[np.bool_]]:
    """Keys [n] of a gated shard's images, their perceptual hashes [n], and which have one [n]."""
    with opened(pixels_path(folder, shard)) as file:
        table = read_arrow(file, ("key", "hash"))
    column = table["hash"]
    hashes: NDArray[np.uint64] = column.fill_null(0).to_numpy()
    return table["key"].to_pylist(), hashes, column.is_valid().to_numpy()
