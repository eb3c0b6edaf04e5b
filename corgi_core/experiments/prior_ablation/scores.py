"""Metrics of sampled embeddings: cosine, its shuffled control, retrieval and Fréchet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from corgi_core.encoders.similarity import mean_encoder_cosine, recall_at
from corgi_core.errors import CorgiError
from corgi_core.evaluation.derangement import derangement
from corgi_core.metrics.frechet import FeatureStatistics, frechet_distance
from corgi_core.metrics.retrieval import RECALL_RANKS

SHUFFLE_SEED = 0  # the same derangement for every arm


class Scorer:
    """Scores embeddings against those of the held-out images, real [n, d], n ≥ 2."""

    def __init__(self, real: Tensor, encoder_dims: Sequence[int]) -> None:
        if len(real) < 2:
            raise CorgiError(
                f"{len(real)} captioned validation images are too few to measure on",
                "ingest more captioned images, or raise validation_fraction",
            )
        self.real, self.encoder_dims = real, tuple(encoder_dims)
        self._mismatched = real[derangement(len(real), SHUFFLE_SEED)]

    @cached_property
    def _statistics(self) -> FeatureStatistics:
        return _unit_statistics(self.real)

    def scores(self, z: Tensor) -> dict[str, float]:
        """Of embeddings z [n, d], row i from caption i.

        `shuffled_cosine` is to the image of another caption, which needs no reading of the text.
        `frechet` is on the embeddings scaled to norm 1.
        """
        recalls = recall_at(z, self.real, RECALL_RANKS, self.encoder_dims)
        return {
            "cosine": self.cosine(z),
            "shuffled_cosine": float(
                mean_encoder_cosine(z, self._mismatched, self.encoder_dims).mean()
            ),
            **{f"recall_at_{rank}": recall for rank, recall in recalls.items()},
            "frechet": frechet_distance(_unit_statistics(z), self._statistics),
        }

    def cosine(self, z: Tensor) -> float:
        """Mean cosine of embeddings z [n, d] to the real ones of the same rows."""
        return float(mean_encoder_cosine(z, self.real, self.encoder_dims).mean())


def _unit_statistics(z: Tensor) -> FeatureStatistics:
    return FeatureStatistics.of((z / z.norm(dim=1, keepdim=True)).cpu().numpy())
