"""Held-out cosine and retrieval of a prior, by number of sampling steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from corgi_core.encoders.similarity import cosine_by_encoder, recall_at
from corgi_core.prior.model import PriorModel
from corgi_core.prior.task import Captions
from corgi_core.progress import track

RECALL_RANKS = (1, 5)


def embedding_scores(
    predicted: Tensor, captions: Captions, encoder_dims: Sequence[int], names: Sequence[str]
) -> dict[str, Any]:
    """How near embeddings [n, d] come to the true ones of the same rows.

    The cosine, per CLIP encoder and averaged; and, because the cosine alone rewards predicting the
    mean, the recall of the true image among all held-out ones, each counted once however many
    captions it has.
    """
    by_encoder = cosine_by_encoder(predicted, captions.image, encoder_dims).mean(dim=0).tolist()
    images, own = torch.unique(captions.image, dim=0, return_inverse=True)
    recalls = recall_at(predicted, images, RECALL_RANKS, encoder_dims, own)
    return {
        "cosine": sum(by_encoder) / len(by_encoder),
        "cosine_by_encoder": dict(zip(names, by_encoder, strict=True)),
        **{f"recall_at_{rank}": value for rank, value in recalls.items()},
        "count": len(predicted),
    }


def text_embedding_scores(captions: Captions, encoders: dict[str, Any]) -> dict[str, Any]:
    """The floor that a prior must clear: the CLIP text embedding in the image embedding's place."""
    return embedding_scores(captions.text, captions, encoders["encoder_dims"], encoders["names"])


def prior_scores(
    prior: PriorModel, captions: Captions, steps: Sequence[int], seed: int, what: str
) -> dict[str, Any]:
    """`embedding_scores` and the sampling's wall time, keyed by the number of steps."""
    scores: dict[str, Any] = {}
    tokens, mask, text, _ = captions.batch(torch.arange(len(captions)))
    for count in track(steps, f"sampling from {what}"):
        started = time.perf_counter()
        sampled = prior.sample(tokens, mask, text, steps=count, seed=seed)
        seconds = time.perf_counter() - started
        scores[str(count)] = {
            **embedding_scores(
                sampled, captions, prior.encoders["encoder_dims"], prior.encoders["names"]
            ),
            "seconds": round(seconds, 3),
        }
    return scores
