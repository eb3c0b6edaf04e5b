"""What evaluations and comparisons read, and where they have arrays computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from upath import UPath

from corgi_core.config import InferencePrecision
from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.encoders.embed import ClipSource
from corgi_core.errors import CorgiError
from corgi_core.mapping import Map, map_here

RunJob = Callable[[ArrayJob, Path | UPath], ArrayStore]
"""run(job, folder) makes the store in `folder` whole, on whatever devices there are."""


@dataclass(frozen=True)
class TrainingData:
    """What the models learned from.

    Attributes:
        images: The dataset, of which the training images count.
        image_embeddings: "image" [n, d].
        text_embeddings: The captions' embeddings and tokens, one row a caption.
        pixels: The images as squares; None for embeddings alone.
        left_out: Keys of its held-out images that do not count.
    """

    images: Dataset
    image_embeddings: ArrayStore
    text_embeddings: ArrayStore
    pixels: ArrayStore | None = None
    left_out: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Material:
    """Images and captions to evaluate on, and how models compute with them.

    Attributes:
        images: The dataset, whose test images with captions are evaluated.
        image_embeddings: "image" [n, d].
        text_embeddings: The captions' embeddings and tokens, one row a caption.
        folder: Where arrays are stored, in chunks. Those that still hold are used again.
        run: Computes the arrays of a job.
        pixels: The images as squares, as `Squares` has them; None for embeddings alone.
        clip: The encoder of the embeddings, as `ClipEnsemble.load` reads it.
        precision: Of sampling, decoding and encoding on a GPU.
        left_out: Keys of held-out images that do not count.
        other_training: What the models learned from, where that is another dataset. Where it is
            this one, priors are scored on its validation images too, and by nearness to a training
            image.
        mapped: Sums over shards, on whatever machines there are.

    Raises:
        CorgiError: images and captions were embedded by different encoders.
    """

    images: Dataset
    image_embeddings: ArrayStore
    text_embeddings: ArrayStore
    folder: Path | UPath
    run: RunJob
    pixels: ArrayStore | None = None
    clip: ClipSource = ()
    precision: InferencePrecision = "auto"
    left_out: frozenset[str] = frozenset()
    other_training: TrainingData | None = None
    mapped: Map = map_here

    def __post_init__(self) -> None:
        images, texts = (s.spec["encoder"] for s in (self.image_embeddings, self.text_embeddings))
        if images != texts:
            raise CorgiError(
                f"images were embedded by CLIP {images}, captions by {texts}",
                "materialise image_embeddings and text_embeddings with the same clip_encoder",
            )

    @property
    def trained_here(self) -> bool:
        """Whether the models learned from the training images of the dataset that is evaluated."""
        return self.other_training is None

    @property
    def training(self) -> TrainingData:
        """What the models learned from."""
        own = TrainingData(
            self.images, self.image_embeddings, self.text_embeddings, self.pixels, self.left_out
        )
        return self.other_training or own

    @property
    def encoder_dims(self) -> tuple[int, ...]:
        """Widths of the CLIP encoders, which sum to d."""
        return tuple(self.image_embeddings.spec["encoder_dims"])
