"""The training images nearest to an image: what a model may have memorised.

Nearness is the cosine of CLIP image embeddings, averaged over the encoders (1 is the same image to
CLIP). The search is exact, by faiss, with one shard of the embeddings in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.pixels import square
from corgi_core.encoders.similarity import unit_per_encoder
from corgi_core.errors import CorgiError

MAX_NEIGHBOURS = 16


@dataclass(frozen=True)
class Neighbours:
    """The k nearest training images of n images, nearest first.

    Attributes:
        keys: Keys of the training images, str [n, k].
        cosines: float32 [n, k] in [−1, 1].
    """

    keys: NDArray[np.str_]
    cosines: NDArray[np.float32]


@dataclass(frozen=True)
class TrainingImages:
    """The training split of a dataset with its embeddings.

    Attributes:
        images: The gated images.
        embeddings: Their CLIP embeddings, the array "image" [m, d].
    """

    images: Dataset
    embeddings: ArrayStore

    @cached_property
    def _keys(self) -> frozenset[str]:
        return frozenset(self.images.keys("train"))

    def nearest(self, z: Tensor, count: int) -> Neighbours:
        """The `count` training images nearest to each embedding of z [n, d].

        Raises:
            CorgiError: For a count outside 1 … 16 or above the number of training images, and for
                embeddings of another width.
        """
        from faiss import METRIC_INNER_PRODUCT
        from faiss.contrib.exhaustive_search import knn_ground_truth

        rows = self.embeddings.rows_among(self._keys)
        if not 1 <= count <= min(MAX_NEIGHBOURS, len(rows)):
            raise CorgiError(
                f"{count} nearest of {len(rows):,} training images were asked for",
                f"ask for 1 to {min(MAX_NEIGHBOURS, len(rows))}",
            )
        search: Any = knn_ground_truth  # faiss has no types
        sums, found = search(self._directions(z), self._chunks(), count, METRIC_INNER_PRODUCT)
        cosines = sums / np.float32(len(self._encoder_dims))
        return Neighbours(self.embeddings.keys[rows[found]], cosines)

    def pictures(self, keys: Iterable[str], size: int) -> Tensor:
        """The images of those keys as squares, in order: float32 [n, 3, size, size] in [0, 1]."""
        wanted = list(keys)
        shard_of = dict(zip(*(self.images.manifest[c] for c in ("key", "shard")), strict=True))
        squares = {
            key: square(image, size)
            for shard in sorted({shard_of[key] for key in wanted})
            for key, image in self.images.images(shard)
            if key in set(wanted)
        }
        return torch.from_numpy(np.stack([squares[key] for key in wanted])).float() / 255

    def names(self, keys: Iterable[str]) -> list[str]:
        """The first caption of each image, or its key where it has none."""
        captions = dict(zip(*(self.images.manifest[c] for c in ("key", "captions")), strict=True))
        return [(captions[key] or [key])[0] for key in keys]

    def beside(
        self, pictures: Tensor, neighbours: Neighbours
    ) -> tuple[list[str], dict[str, Tensor]]:
        """Images and their neighbours as rows and columns of `labelled_grid`.

        Args:
            pictures: Generated images [n, 3, s, s] in [0, 1].
            neighbours: Their nearest training images.

        Returns:
            A label for each row, with the neighbours' names and cosines; and the columns, the
            images first, then the neighbours, nearest first.
        """
        captions = [
            "; ".join(
                f"{name} ({c:.2f})" for name, c in zip(self.names(keys), cosines, strict=True)
            )
            for keys, cosines in zip(neighbours.keys.tolist(), neighbours.cosines, strict=True)
        ]
        columns = {"generated": pictures}
        for rank, keys in enumerate(neighbours.keys.T.tolist(), start=1):
            columns[f"nearest {rank}"] = self.pictures(keys, pictures.shape[-1])
        return captions, columns

    @property
    def _encoder_dims(self) -> list[int]:
        return list(self.embeddings.spec["encoder_dims"])

    def _chunks(self) -> Iterator[NDArray[np.float32]]:
        for chunk in self.embeddings.chunks("image", self._keys):
            yield self._directions(torch.from_numpy(chunk))

    def _directions(self, z: Tensor) -> NDArray[np.float32]:
        return np.ascontiguousarray(unit_per_encoder(z.float().cpu(), self._encoder_dims).numpy())
