"""Fréchet distance and CLIP similarity of decoded held-out images against the real ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from corgi_core.decoders.decoder import Decoder
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.metrics.frechet import FeatureStatistics, frechet_distance
from corgi_core.metrics.inception import InceptionFeatures
from corgi_core.metrics.precision_recall import precision_recall


@dataclass
class PictureScorer:
    """Compares pictures with real images, each counted once, on the device that CLIP is on.

    Args:
        clip: Its image embeddings are compared, and are the features where there is no Inception.
        real: The real images [n, 3, h, w] in [0, 1].
        text: CLIP text embeddings [n, d] of their captions.
        inception: Features for the Fréchet distance, precision and recall.
    """

    clip: ClipEnsemble
    real: Tensor
    text: Tensor
    inception: InceptionFeatures | None = None

    def __post_init__(self) -> None:
        self._real_embeddings = self.embed(self.real)
        self._real_features = self._features(self.real, self._real_embeddings)
        self._real_statistics = FeatureStatistics.of(self._real_features)

    @property
    def frechet_name(self) -> str:
        """The Fréchet distance's name: "fid" where the features are Inception's, only there."""
        return "fid" if self.inception is not None else "frechet_distance_clip"

    @torch.no_grad()
    def embed(self, pictures: Tensor) -> Tensor:
        """CLIP's embeddings [n, d] of pictures [n, 3, h, w]."""
        return torch.cat([self.clip.encode_images(batch) for batch in torch.split(pictures, 128)])

    def scores(self, pictures: Tensor, embeddings: Tensor) -> dict[str, Any]:
        """Scores of pictures [n, 3, h, w] and their embeddings (`embed`); row i is of caption i."""
        features, encoder_dims = self._features(pictures, embeddings), self.clip.encoder_dims
        distance = frechet_distance(FeatureStatistics.of(features), self._real_statistics)
        return {
            self.frechet_name: distance,
            **precision_recall(self._real_features, features)._asdict(),
            "clip_similarity_image": float(
                mean_encoder_cosine(embeddings, self._real_embeddings, encoder_dims).mean()
            ),
            "clip_similarity_text": float(
                mean_encoder_cosine(embeddings, self.text.to(embeddings), encoder_dims).mean()
            ),
            "count": len(pictures),
        }

    def _features(self, pictures: Tensor, embeddings: Tensor) -> NDArray[Any]:
        if self.inception is not None:
            return self.inception(pictures)
        features: NDArray[Any] = F.normalize(embeddings, dim=1).cpu().numpy()
        return features


def decode_and_score(
    decoder: Decoder, embeddings: Tensor, scorer: PictureScorer, seed: int
) -> tuple[Tensor, dict[str, Any]]:
    """Decode embeddings [n, d].

    Returns:
        The pictures [n, 3, h, w] on the CPU, and their scores with the decoding's wall time in
        "seconds".
    """
    started = time.perf_counter()
    with torch.no_grad():
        pictures = decoder.decode(embeddings, seed=seed).cpu()
    seconds = time.perf_counter() - started
    scores = scorer.scores(pictures, scorer.embed(pictures))
    return pictures, {**scores, "seconds": round(seconds, 3)}
