"""Where the images' files lie: what is stored where pixels are decoded whenever needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from corgi_core.config import PixelSource
from corgi_core.data.arrays import Arrays, ArrayStore
from corgi_core.data.pixels import Pixels

SOURCE = "pixels"  # in the spec of pixels: online, or absent where they are stored


@dataclass(frozen=True)
class ImageIndex(Pixels):
    """The position of each image file in its shard's tar, which is stored instead of pixels.

    Arrays: "start" and "size", int64 [n], in bytes; "sha256", uint8 [n, 32], of the file.
    """

    what = "positions of images"

    @property
    def about(self) -> dict[str, Any]:
        """The squares' size and framing, and that they are decoded online."""
        return super().about | {SOURCE: "online"}

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a shard's name to its images' positions; none of them is decoded."""

        def positions(shard: str) -> Arrays:
            rows = self.images.rows(shard, "key", "sha256")
            start, size = np.array(self.images.ranges(shard), np.int64).reshape(-1, 2).T
            digests = np.frombuffer(bytes.fromhex("".join(rows["sha256"])), np.uint8)
            return {
                "keys": rows["key"].to_numpy(str),
                "start": start,
                "size": size,
                "sha256": digests.reshape(-1, 32),
            }

        return positions


PIXEL_JOBS: dict[PixelSource, type[Pixels]] = {"stored": Pixels, "online": ImageIndex}


def is_online(pixels: ArrayStore) -> bool:
    """Whether a store has the images' positions, and not their pixels."""
    return bool(pixels.spec.get(SOURCE, "stored") == "online")
