"""The nearest training image to each test image, and to each test caption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import Arrays, ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.image_index import is_online
from corgi_core.data.revisions import TRAINING_NEIGHBOURS_REVISION
from corgi_core.data.splits import TRAIN
from corgi_core.evaluation.held_out import Chunks, HeldOut
from corgi_core.evaluation.material import Material
from corgi_core.evaluation.nearest import COMPARED_AT_ONCE, TrainingImages
from corgi_core.evaluation.overlap import NearestHashes, nearest_hashes
from corgi_core.evaluation.perceptual import PerceptualHashes
from corgi_core.io.files import digest_of

# Training images to which an image is compared in about the time that one is embedded: 512 products
# each, of ViT-B/32's 4.4 · 10⁹.
COMPARED_AS_ONE = 8_000_000
Query = Literal["image", "text"]


@dataclass(frozen=True)
class Sought:
    """Neighbours of the test images, or of their captions' CLIP text embeddings.

    Attributes:
        query: Which of the two.
        training: The digest of the training images.
    """

    query: Query
    training: str

    @property
    def digest(self) -> str:
        """Names the query and the training images."""
        return digest_of("neighbours", self.query, self.training)


@dataclass(frozen=True)
class TrainingNeighbours(ArrayJob):
    """How near the nearest training image is, and which one it is.

    Arrays: "cosine" [n], averaged over the encoders; "nearest" [n], the training image's number, as
    `TrainingImages` counts them; of images with hashes also "bits" [n], of 64, in which the nearest
    hash differs, and "hash_cosine" [n] to its image. Both searches are exact, and read the training
    data a shard at a time.

    Attributes:
        images: The test images in chunks.
        dataset: With the training images.
        embeddings: The image embeddings of the training images.
        own: Those of the test images.
        texts: The captions' embeddings.
        hashes: The perceptual hashes of both; None for embeddings alone.
    """

    images: Chunks[Sought]
    dataset: Dataset
    embeddings: ArrayStore
    own: ArrayStore
    texts: ArrayStore
    hashes: ArrayStore | None = None
    what = "looking for near training images"
    revision = TRAINING_NEIGHBOURS_REVISION

    @property
    def about(self) -> dict[str, Any]:
        """What images are compared by; the training images are in the chunks' cases."""
        return {
            "embeddings": self.embeddings.digest,
            "own": self.own.digest,
            "texts": self.texts.digest,
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
            case, rows = self.images.part(shard)
            z = self._queries(case, rows)
            numbers, cosines = training.nearest_numbers(z, 1)
            found: Arrays = {
                "keys": self.images.keys(shard), "cosine": cosines[:, 0], "nearest": numbers[:, 0],
            }  # fmt: skip
            if self.hashes is not None and case.query == "image":
                own = captions.gather(rows, self.hashes, "hash")
                by_hash = nearest_hashes(own, z, training, self.hashes)
                found |= {"bits": by_hash.bits, "hash_cosine": by_hash.cosines}
            return found

        return compared

    def _queries(self, case: Sought, rows: NDArray[np.int64]) -> Tensor:
        captions = self.images.captions
        if case.query == "image":
            return captions.image_embeddings(rows, self.own)
        return torch.from_numpy(captions.gather(rows, self.texts, "text").astype(np.float32))


@dataclass(frozen=True)
class Found:
    """The nearest training images of all test images [n].

    Attributes:
        training: The training images.
        nearest: Their numbers by query, int64 [n].
        cosines: Of the test images to the nearest, [n].
        by_hash: How near the nearest hashes are, where there are hashes.
    """

    training: TrainingImages
    nearest: dict[Query, NDArray[np.int64]]
    cosines: NDArray[np.float32]
    by_hash: NearestHashes | None

    def images(self, query: Query) -> HeldOut:
        """The nearest training image for each test image or caption [n]."""
        return self.training.listed(self.nearest[query])


def nearest_to_texts(captions: HeldOut, material: Material, folder: str) -> HeldOut:
    """The training image whose embedding is nearest to each caption's text embedding.

    Args:
        captions: The captions [n].
        material: Their embeddings, and the training images.
        folder: Where the search is stored, beside other chunks; other captions, another folder.
    """
    training = material.training
    case = Sought("text", training.images.digest)
    chunks = Chunks(captions, (case,), COMPARED_AT_ONCE)
    job = TrainingNeighbours(
        chunks, training.images, training.image_embeddings, material.image_embeddings,
        material.text_embeddings,
    )  # fmt: skip
    store = material.run(job, material.folder / folder)
    numbers = [store.mapped(shard, "nearest") for shard in chunks.shards_of(case)]
    return TrainingImages(training.images, training.image_embeddings).listed(
        np.concatenate(numbers)
    )


def training_neighbours(held_out: HeldOut, material: Material) -> Found:
    """The nearest training images of the test images and of their captions.

    Hashes are compared where the models learned from this dataset and its pixels are stored.
    """
    hashes, training = None, material.training
    if material.trained_here and material.pixels is not None and not is_online(material.pixels):
        job = PerceptualHashes(material.images, material.pixels)
        hashes = material.run(job, material.folder / "hashes")
    cases: dict[Query, Sought] = {
        "image": Sought("image", training.images.digest),
        "text": Sought("text", training.images.digest),
    }
    chunks = Chunks(held_out, tuple(cases.values()), COMPARED_AT_ONCE)
    neighbours = TrainingNeighbours(
        chunks, training.images, training.image_embeddings, material.image_embeddings,
        material.text_embeddings, hashes,
    )  # fmt: skip
    store = material.run(neighbours, material.folder / "neighbours")

    def column(query: Query, name: str) -> NDArray[Any]:
        shards = chunks.shards_of(cases[query])
        return np.concatenate([store.mapped(shard, name) for shard in shards])

    by_hash = None
    if hashes is not None:
        by_hash = NearestHashes(column("image", "bits"), column("image", "hash_cosine"))
    return Found(
        TrainingImages(training.images, training.image_embeddings),
        {query: column(query, "nearest") for query in cases},
        column("image", "cosine"),
        by_hash,
    )
