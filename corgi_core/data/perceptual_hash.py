"""The perceptual hash: 64 bits of a picture that stay when it is scaled or compressed again.

The picture is reduced to 32 × 32 grey values; of their discrete cosine transform, the 8 × 8 lowest
frequencies after the constant are compared with their median (Zauner, Implementation and
Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1). Copies differ in a few bits,
unrelated pictures in about 32; the number is even, as half of the bits are ones.

Measured on 200 made photographs of 320 × 240 pixels and 303 emoji on flat white: the shares of
copies that differ in up to 4 and up to 8 bits. Of the 19,900 pairs of different photographs the
least differed in 16 bits; of the 45,753 pairs of emoji, 7 in up to 4, all near twins to the eye.

copy                          photographs     emoji
half the size                 100 %, 100 %    95 %, 98 %
half the size, JPEG of 30     100 %, 100 %    70 %, 82 %
JPEG of quality 50            100 %, 100 %    85 %, 90 %
10 % brighter                 100 %, 100 %    86 %, 97 %
without 1 % at each side       93 %, 100 %    61 %, 96 %
without 3 % at each side       12 %,  68 %    10 %, 55 %
mirrored                        0 %,   0 %     2 %,  2 %
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32  # pixels that the transform is of
FREQUENCIES = 9  # to a side, of which the constant ones are left out: 8 · 8 bits
FLAT = 2.0  # grey values: a picture of a smaller standard deviation has no bits of its own


def hash_of(picture: Image.Image) -> int | None:
    """The hash of an RGB picture; None for one that shows nothing, such as a plain colour."""
    small = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    grey = np.asarray(small, dtype=np.float64)
    return None if grey.std() < FLAT else int(hashes_of(grey[None])[0])


def hashes_of(grey: NDArray[np.floating[Any]]) -> NDArray[np.uint64]:
    """The hashes uint64 [n] of grey values [n, 32, 32]."""
    transform = _cosines()
    low = (transform @ grey.astype(np.float64) @ transform.T).reshape(len(grey), -1)
    bits = low > np.median(low, axis=1, keepdims=True)
    packed = np.packbits(bits, axis=1)
    return np.ascontiguousarray(packed).view(np.uint64)[:, 0]


@lru_cache(1)
def _cosines() -> NDArray[np.float64]:
    """The rows 1 … 8 of the cosine transform of 32 values, [8, 32]."""
    frequency, position = np.arange(1, FREQUENCIES)[:, None], np.arange(SIDE)[None]
    return np.cos(np.pi * frequency * (2 * position + 1) / (2 * SIDE))
