"""Fréchet distance and CLIP similarity of decoded held-out images against the real ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from corgi_core.decoders.decoder import Decoder
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.similarity import blockwise_cosine
from corgi_core.metrics.frechet import FeatureStatistics, frechet_distance
from corgi_core.metrics.inception import InceptionFeatures


@dataclass
class PictureJudge:
    """Compares pictures with real images, under the features of one CLIP or Inception.

    real [n, 3, h, w] in [0, 1] and text [n, d], the CLIP text embeddings of the same rows.
    """

    clip: ClipEnsemble
    real: Tensor
    text: Tensor
    inception: InceptionFeatures | None = None

    def __post_init__(self) -> None:
        self._real_embeddings = self._embed(self.real)
        self._real_statistics = self._statistics(self.real, self._real_embeddings)

    @property
    def frechet_name(self) -> str:
        """ "fid" where the features are Inception's, and only there."""
        return "fid" if self.inception is not None else "frechet_distance_clip"

    @torch.no_grad()
    def _embed(self, pictures: Tensor) -> Tensor:
        return torch.cat([self.clip.encode_images(batch) for batch in pictures.split(128)])

    def _statistics(self, pictures: Tensor, embeddings: Tensor) -> FeatureStatistics:
        if self.inception is not None:
            return FeatureStatistics.of(self.inception(pictures))
        return FeatureStatistics.of((embeddings / embeddings.norm(dim=1, keepdim=True)).numpy())

    def scores(self, pictures: Tensor) -> dict[str, Any]:
        """Scores of pictures [n, 3, h, w], row i made from caption i."""
        embeddings = self._embed(pictures)
        distance = frechet_distance(self._statistics(pictures, embeddings), self._real_statistics)
        blocks = self.clip.widths
        return {
            self.frechet_name: distance,
            "clip_similarity_image": float(
                blockwise_cosine(embeddings, self._real_embeddings, blocks).mean()
            ),
            "clip_similarity_text": float(blockwise_cosine(embeddings, self.text, blocks).mean()),
            "count": len(pictures),
        }


def decode_and_score(
    decoder: Decoder, embeddings: Tensor, judge: PictureJudge, seed: int
) -> tuple[Tensor, dict[str, Any]]:
    """Pictures of embeddings [n, d] and their scores with the decoding's wall time."""
    started = time.perf_counter()
    with torch.no_grad():
        pictures = decoder.decode(embeddings, seed=seed)
    seconds = time.perf_counter() - started
    return pictures, {**judge.scores(pictures), "seconds": round(seconds, 3)}
