"""Which captions belong to which training images, found a shard at a time."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.keys import KeySet
from corgi_core.data.ragged import RaggedArray
from corgi_core.training.rows import SHARDS_HELD, ChosenRows


class CaptionsOfShard(NamedTuple):
    """Chosen image i has the captions `rows[starts[i]]` … `rows[starts[i] + counts[i] − 1]`."""

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]


class ImageCaptions:
    """The captions of training images that are in a caption subset.

    Args:
        images: The training images.
        texts: The captions, sharded as the images are.
        captioned: The images whose captions may be used.
        array: The ragged array of the captions' tokens, or of what they are made of.
    """

    def __init__(
        self, images: ChosenRows, texts: ArrayStore, captioned: KeySet, array: str
    ) -> None:
        self._images, self._texts, self._captioned = images, texts, captioned
        self._array = array
        self._shards = texts.shards
        self._of = lru_cache(SHARDS_HELD)(self._found)

    def sample(self, images: Tensor, uniform: Tensor) -> RaggedArray:
        """The array's row of one caption of each image; an empty one for no captions.

        Args:
            images: Their numbers, long [b].
            uniform: Which of an image's captions: [b] in [0, 1).
        """
        parts, numbers = [], uniform.numpy()
        for shard, chosen, at in self._images.parts(images.numpy()):
            rows, starts, counts = self._of(shard)
            count = counts[chosen]
            one = starts[chosen] + np.minimum((numbers[at] * count).astype(np.int64), count - 1)
            there = self._texts.mapped_ragged(self._shards[shard], self._array)
            parts.append((there, rows[one[count > 0]], at[count > 0]))
        return RaggedArray.gathered(len(images), parts)

    def _found(self, shard: int) -> CaptionsOfShard:
        keys, images = self._texts.shard_keys(self._shards[shard]), self._images.shard_keys(shard)
        rows = np.flatnonzero(self._captioned.among(self._shards[shard], keys))
        rows = rows[np.argsort(keys[rows], kind="stable")]
        starts, ends = (np.searchsorted(keys[rows], images, side) for side in ("left", "right"))
        return CaptionsOfShard(rows, starts, ends - starts)
