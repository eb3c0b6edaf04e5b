"""Which test images have a near neighbour among the training images: scores are reported of both.

What a model scores on captions of images that it has almost learned by heart says little about new
ones. A neighbour is near by the cosine of the image embeddings or, of pictures, by perceptual hash.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corgi_core.config import EvaluationSettings
from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import Arrays, ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.revisions import TRAINING_NEIGHBOURS_REVISION
from corgi_core.evaluation.held_out import Chunks, HeldOut
from corgi_core.evaluation.material import Material
from corgi_core.evaluation.nearest import TrainingImages
from corgi_core.evaluation.overlap import nearest_hashes
from corgi_core.evaluation.perceptual import PerceptualHashes
from corgi_core.io.files import digest_of

AT_ONCE = 8192  # test images, for which the training images are read once


@dataclass(frozen=True)
class _Training:
    """The training images, as the one case of the chunks."""

    digest: str


@dataclass(frozen=True)
class TrainingNeighbours(ArrayJob):
    """How near the nearest training image is to each test image.

    Arrays: "cosine" [n], averaged over the encoders; with hashes also "bits" [n], of 64, in which
    the nearest hash differs. Both searches are exact, and read the training data a shard at a time.

    Attributes:
        images: The test images in chunks.
        dataset: With the training images.
        embeddings: The image embeddings of both.
        hashes: The perceptual hashes of both; None for embeddings alone.
    """

    images: Chunks[_Training]
    dataset: Dataset
    embeddings: ArrayStore
    hashes: ArrayStore | None = None
    what = "looking for near training images"
    revision = TRAINING_NEIGHBOURS_REVISION

    @property
    def about(self) -> dict[str, Any]:
        """The images that are compared, and by what."""
        return {
            "training": self.dataset.digest,
            "embeddings": self.embeddings.digest,
            "hashes": self.hashes.digest if self.hashes else None,
        }

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a chunk's name to its arrays."""
        captions = self.images.captions
        training = TrainingImages(self.dataset, self.embeddings)

        def compared(shard: str) -> Arrays:
            _, rows = self.images.part(shard)
            near = training.nearest(captions.image_embeddings(rows, self.embeddings), 1)
            found: Arrays = {"keys": self.images.keys(shard), "cosine": near.cosines[:, 0]}
            if self.hashes is not None:
                own = captions.gather(rows, self.hashes, "hash")
                _, found["bits"] = nearest_hashes(own, self.dataset, self.hashes)
            return found

        return compared


def near_training(
    held_out: HeldOut, material: Material, settings: EvaluationSettings
) -> NDArray[np.bool_]:
    """Which of the test images [n] have a near neighbour among the dataset's training images."""
    hashes = None
    if material.pixels is not None:
        job = PerceptualHashes(material.images, material.pixels)
        hashes = material.run(job, material.folder / "hashes")
    chunks = Chunks(held_out, (_Training(digest_of(material.images.digest)),), AT_ONCE)
    neighbours = TrainingNeighbours(chunks, material.images, material.image_embeddings, hashes)
    store = material.run(neighbours, material.folder / "neighbours")

    def column(name: str) -> NDArray[Any]:
        return np.concatenate([store.mapped(shard, name) for shard in chunks.shards])

    near: NDArray[np.bool_] = column("cosine") >= settings.near_cosine
    return near if hashes is None else near | (column("bits") <= settings.near_bits)
