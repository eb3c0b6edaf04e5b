"""How near the nearest training image is to each picture: what memorisation is measured by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import Arrays, ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.revisions import PICTURE_NEIGHBOURS_REVISION
from corgi_core.data.splits import TRAIN
from corgi_core.evaluation.held_out import Chunks
from corgi_core.evaluation.nearest import TrainingImages
from corgi_core.evaluation.picture_features import CLIP, Pictures
from corgi_core.evaluation.training_neighbours import COMPARED_AS_ONE


@dataclass(frozen=True)
class PictureNeighbours(ArrayJob):
    """The array "cosine" [n] of every case: to the nearest training image, over the encoders.

    The search is exact, and reads the training embeddings a shard at a time, once for a chunk.

    Attributes:
        images: The pictures in chunks of up to `COMPARED_AT_ONCE`.
        pictures: The same pictures, in the chunks of their features.
        features: The arrays of `PictureFeatures`.
        dataset: With the training images.
        embeddings: Their embeddings.
    """

    images: Chunks[Pictures]
    pictures: Chunks[Pictures]
    features: ArrayStore
    dataset: Dataset
    embeddings: ArrayStore
    what = "looking for pictures' training images"
    revision = PICTURE_NEIGHBOURS_REVISION

    @property
    def about(self) -> dict[str, Any]:
        """What pictures are embedded by, and which training images they are compared with.

        Not the digest of the features, which changes with the cases.
        """
        return {
            "features": self.features.spec,
            "training": self.dataset.digest,
            "embeddings": self.embeddings.digest,
        }

    @property
    def weight(self) -> int:
        """It grows with the training images."""
        return 1 + sum(self.dataset.images_of(TRAIN).values()) // COMPARED_AS_ONE

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a chunk's name to its cosines."""
        training = TrainingImages(self.dataset, self.embeddings)

        def compared(shard: str) -> Arrays:
            case, rows = self.images.part(shard)
            _, cosines = training.nearest_numbers(self._embeddings(case, rows), 1)
            return {"keys": self.images.keys(shard), "cosine": cosines[:, 0]}

        return compared

    def _embeddings(self, case: Pictures, rows: NDArray[np.int64]) -> Tensor:
        """CLIP's embeddings [n, d] of a case's pictures of the given rows [n], which ascend."""
        z = torch.empty(len(rows), sum(self.embeddings.spec["encoder_dims"]))
        for shard in self.pictures.shards_of(case):
            _, found = self.pictures.part(shard)
            wanted = np.isin(found, rows)
            if wanted.any():
                there = torch.from_numpy(self.features.mapped(shard, CLIP)[wanted])
                z[np.searchsorted(rows, found[wanted])] = there.float()
        return z
