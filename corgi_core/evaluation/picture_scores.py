"""Scores of decoded pictures against the real ones, from the features of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from corgi_core.data.arrays import ArrayStore
from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.evaluation.held_out import Chunks, HeldOut
from corgi_core.evaluation.material import Material
from corgi_core.evaluation.picture_features import (
    CHUNK,
    CLIP,
    INCEPTION,
    PICTURES,
    SECONDS,
    TO_TEXT,
    Decoded,
    PictureFeatures,
    Pictures,
    RealImages,
)
from corgi_core.evaluation.sampling import Sampled, SampledEmbeddings
from corgi_core.metrics.frechet import FeatureStatistics, frechet_distance
from corgi_core.metrics.precision_recall import Manifold, between


@dataclass(frozen=True)
class PictureScorer:
    """Compares pictures with the real images, each counted once.

    Attributes:
        features: The arrays of `PictureFeatures`; the real images are one of their cases.
        chunks: Their captions and cases.
        encoder_dims: Widths of the CLIP encoders.
        inception: Whether the features are Inception's, and not CLIP's.
    """

    features: ArrayStore
    chunks: Chunks[Pictures]
    encoder_dims: Sequence[int]
    inception: bool = False

    @property
    def frechet_name(self) -> str:
        """The Fréchet distance's name: "fid" where the features are Inception's, only there."""
        return "fid" if self.inception else "frechet_distance_clip"

    def scores(self, case: Pictures) -> dict[str, Any]:
        """Scores of a case's pictures, with the seconds of decoding, summed over all workers."""
        if isinstance(case, RealImages):
            statistics, manifold = self._real
        else:
            statistics, manifold = self._of(case)
        real_statistics, real_manifold = self._real
        to_image, to_text, seconds = zip(*self._similarities(case), strict=True)
        return {
            self.frechet_name: frechet_distance(statistics, real_statistics),
            **between(real_manifold, manifold)._asdict(),
            "clip_similarity_image": _mean(to_image),
            "clip_similarity_text": _mean(to_text),
            "count": len(self.chunks.captions),
            "seconds": round(float(np.concatenate(seconds).sum()), 3),
        }

    def embeddings(self, case: Pictures) -> Tensor:
        """CLIP's embeddings of a case's pictures [n, d]."""
        parts = [self.features.mapped(s, CLIP) for s in self.chunks.shards_of(case)]
        return torch.from_numpy(np.concatenate(parts))

    def displayed(self, case: Pictures) -> Tensor:
        """The pictures of a case that grids show, float32 [n, 3, s, s] in [0, 1]."""
        first = self.chunks.shards_of(case)[0]
        return torch.from_numpy(np.array(self.features.mapped(first, PICTURES))).float() / 255

    @cached_property
    def _real(self) -> tuple[FeatureStatistics, Manifold]:
        return self._of(RealImages())

    def _of(self, case: Pictures) -> tuple[FeatureStatistics, Manifold]:
        """Of a case's features, all of which are in memory."""
        chunks = list(self._chunks(case))
        return FeatureStatistics.of_chunks(chunks), Manifold.of(np.concatenate(chunks))

    def _chunks(self, case: Pictures) -> Iterator[NDArray[np.floating[Any]]]:
        for shard in self.chunks.shards_of(case):
            if self.inception:
                yield self.features.mapped(shard, INCEPTION)
            else:
                embeddings = torch.from_numpy(np.array(self.features.mapped(shard, CLIP)))
                yield F.normalize(embeddings, dim=1).numpy()

    def _similarities(self, case: Pictures) -> Iterator[tuple[np.ndarray, ...]]:
        """The cosines to the images and to the captions, and the seconds, chunk by chunk."""
        real = self.chunks.shards_of(RealImages())
        for shard, its_real in zip(self.chunks.shards_of(case), real, strict=True):
            ours, theirs = (
                torch.from_numpy(np.array(self.features.mapped(s, CLIP))) for s in (shard, its_real)
            )
            yield (
                mean_encoder_cosine(ours, theirs, self.encoder_dims).numpy(),
                self.features.mapped(shard, TO_TEXT),
                self.features.mapped(shard, SECONDS),
            )


def picture_scorer(
    material: Material,
    captions: HeldOut,
    displayed: NDArray[np.int64],
    cases: tuple[Decoded, ...],
    inception: str | None = None,
) -> PictureScorer:
    """Decode pictures, and compute their features and those of the real images.

    Args:
        material: Where captions and images are, and where they are computed with.
        captions: Those whose pictures are decoded.
        displayed: The rows of them that grids show.
        cases: The pictures.
        inception: The path of a TorchScript Inception, or None for CLIP's features.

    Returns:
        What scores the pictures.
    """
    assert material.pixels is not None, "there are no images to compare pictures with"
    stores, rows = (material.image_embeddings, material.text_embeddings), tuple(displayed.tolist())
    samples = dict.fromkeys(case.source for case in cases if isinstance(case.source, Sampled))
    sampled = None
    if samples:
        of_samples = Chunks(captions, tuple(samples), CHUNK, rows)
        job = SampledEmbeddings(of_samples, *stores, material.precision)
        sampled = material.run(job, material.folder / "embeddings")
    chunks = Chunks[Pictures](captions, (RealImages(), *cases), CHUNK, rows)
    features = PictureFeatures(
        chunks, *stores, material.pixels, material.clip, sampled, inception, material.precision,
        material.images,
    )  # fmt: skip
    stored = material.run(features, material.folder / "pictures")
    return PictureScorer(stored, chunks, material.encoder_dims, inception is not None)


def _mean(parts: Sequence[np.ndarray]) -> float:
    return float(np.concatenate(parts).mean(dtype=np.float64))
