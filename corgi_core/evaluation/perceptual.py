"""Perceptual hashes: 64 bits of an image that stay when it is scaled or compressed again.

The image is reduced to 32 × 32 grey values; of its discrete cosine transform, the 8 × 8 lowest
frequencies after the constant are compared with their median (Zauner, Implementation and
Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1). Copies differ in a few bits,
unrelated images in about 32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import Arrays, ArrayStore
from corgi_core.data.revisions import PERCEPTUAL_HASHES_REVISION

SIDE = 32  # pixels that the transform is of
FREQUENCIES = 9  # to a side, of which the constant ones are left out: 8 · 8 bits
GREY = (0.299, 0.587, 0.114)
AT_ONCE = 64  # images


@dataclass(frozen=True)
class PerceptualHashes(ArrayJob):
    """The array "hash", uint64 [n], of stored pixels; computed on CPUs alone.

    Attributes:
        images: The dataset, or what else has the pixels' shards.
        pixels: The images as squares, "pixels" uint8 [n, 3, s, s].
    """

    pixels: ArrayStore
    what = "perceptual hashes"
    revision = PERCEPTUAL_HASHES_REVISION

    @property
    def about(self) -> dict[str, Any]:
        """What the squares are."""
        return {"pixels": self.pixels.spec}

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a shard's name to its hashes."""

        def hashed(shard: str) -> Arrays:
            keys, squares = self.pixels.read_with_keys(shard, "pixels")
            parts = [
                perceptual_hashes(squares[i : i + AT_ONCE]) for i in range(0, len(keys), AT_ONCE)
            ]
            none = [np.empty(0, np.uint64)]
            return {"keys": keys, "hash": np.concatenate(parts or none)}

        return hashed


def perceptual_hashes(squares: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hashes uint64 [n] of images uint8 [n, 3, s, s]."""
    grey = np.tensordot(squares.astype(np.float32), np.array(GREY, np.float32), axes=([1], [0]))
    small = F.interpolate(
        torch.from_numpy(grey)[:, None], size=(SIDE, SIDE), mode="bilinear", antialias=True
    )
    transform = _cosines()
    low = (transform @ small[:, 0].double().numpy() @ transform.T).reshape(len(squares), -1)
    bits = low > np.median(low, axis=1, keepdims=True)
    packed = np.packbits(bits, axis=1)
    return np.ascontiguousarray(packed).view(np.uint64)[:, 0]


def nearest_hash(
    hashes: NDArray[np.uint64], among: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each hash [n]: which of `among` [m], m ≥ 1, differs least, and in how many bits."""
    differing = np.bitwise_count(hashes[:, None] ^ among[None])
    nearest = differing.argmin(axis=1)
    return nearest, differing[np.arange(len(hashes)), nearest].astype(np.int64)


def _cosines() -> NDArray[np.float64]:
    """The rows 1 … 8 of the cosine transform of 32 values, [8, 32]."""
    frequency, position = np.arange(1, FREQUENCIES)[:, None], np.arange(SIDE)[None]
    return np.cos(np.pi * frequency * (2 * position + 1) / (2 * SIDE))
