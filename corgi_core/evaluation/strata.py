"""Which test images have a near neighbour among the training images: scores are reported of both.

Scores on test images that have a near copy in the training data say little about new images.
A neighbour is near by the cosine of the image embeddings or, where pixels are stored, by
perceptual hash and a lower cosine. Pixels that are decoded online are not decoded for this alone.
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
from corgi_core.data.image_index import is_online
from corgi_core.data.revisions import TRAINING_NEIGHBOURS_REVISION
from corgi_core.data.splits import TEST, TRAIN
from corgi_core.evaluation.held_out import Chunks, HeldOut
from corgi_core.evaluation.material import Material
from corgi_core.evaluation.nearest import COMPARED_AT_ONCE, TrainingImages
from corgi_core.evaluation.overlap import NearestHashes, nearest_hashes
from corgi_core.evaluation.perceptual import PerceptualHashes
from corgi_core.io.files import digest_of

# Training images to which an image is compared in about the time that one is embedded: 512 products
# each, of ViT-B/32's 4.4 · 10⁹.
COMPARED_AS_ONE = 8_000_000


@dataclass(frozen=True)
class _Training:
    """The training images, as the one case of the chunks."""

    digest: str


@dataclass(frozen=True)
class TrainingNeighbours(ArrayJob):
    """How near the nearest training image is to each test image.

    Arrays: "cosine" [n], averaged over the encoders; with hashes also "bits" [n], of 64, in which
    the nearest hash differs, and "hash_cosine" [n] to its image. Both searches are exact, and read
    the training data a shard at a time.

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
        """What images are compared by; the training images are the chunks' case."""
        return {
            "embeddings": self.embeddings.digest,
            "hashes": self.hashes.digest if self.hashes else None,
        }

    @property
    def weight(self) -> int:
        """It grows with the training images."""
        return 1 + sum(self.dataset.images_of(TRAIN).values()) // COMPARED_AS_ONE

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a chunk's name to its arrays."""
        captions = self.images.captions
        training = TrainingImages(self.dataset, self.embeddings)

        def compared(shard: str) -> Arrays:
            _, rows = self.images.part(shard)
            z = captions.image_embeddings(rows, self.embeddings)
            near = training.nearest(z, 1)
            found: Arrays = {"keys": self.images.keys(shard), "cosine": near.cosines[:, 0]}
            if self.hashes is not None:
                own = captions.gather(rows, self.hashes, "hash")
                by_hash = nearest_hashes(own, z, training, self.hashes)
                found |= {"bits": by_hash.bits, "hash_cosine": by_hash.cosines}
            return found

        return compared


def near_training(
    held_out: HeldOut, material: Material, settings: EvaluationSettings
) -> NDArray[np.bool_]:
    """Which of the test images [n] have a near neighbour among the dataset's training images."""
    hashes = None
    if material.pixels is not None and not is_online(material.pixels):
        job = PerceptualHashes(material.images, material.pixels, (TRAIN, TEST))
        hashes = material.run(job, material.folder / "hashes")
    chunks = Chunks(held_out, (_Training(digest_of(material.images.digest)),), COMPARED_AT_ONCE)
    neighbours = TrainingNeighbours(chunks, material.images, material.image_embeddings, hashes)
    store = material.run(neighbours, material.folder / "neighbours")

    def column(name: str) -> NDArray[Any]:
        return np.concatenate([store.mapped(shard, name) for shard in chunks.shards])

    near: NDArray[np.bool_] = column("cosine") >= settings.near_cosine
    if hashes is None:
        return near
    by_hash = NearestHashes(column("bits"), column("hash_cosine"))
    return near | by_hash.within(settings.near_bits, settings.near_hash_cosine)
