"""Held-out cosine and retrieval of a prior, by number of sampling steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from corgi_core.config import PriorSettings
from corgi_core.devices import wait_for
from corgi_core.encoders.similarity import cosine_by_encoder, recall_at
from corgi_core.errors import CorgiError
from corgi_core.prior.model import PriorModel
from corgi_core.prior.task import Captions
from corgi_core.progress import track

RECALL_RANKS = (1, 5)
Name = tuple[str, str]  # (variant, caption subset)


def comparable_priors(
    priors: Mapping[Name, PriorModel], settings: PriorSettings, encoders: Mapping[str, Any]
) -> dict[Name, PriorModel]:
    """The priors that can be compared: those of the same settings and encoders.

    A variant that the preset does not list is not materialised by default, so it is left out once
    it is stale, until it is materialised again.

    Args:
        priors: The priors by (variant, caption subset).
        settings: The present settings of a prior.
        encoders: The present text embeddings' `spec`.

    Returns:
        The priors of these settings and encoders, by the same names.

    Raises:
        CorgiError: there is none.
    """
    found = {
        name: prior for name, prior in priors.items()
        if prior.settings == settings and prior.encoders == encoders
    }  # fmt: skip
    if not found:
        raise CorgiError(
            f"none of {len(priors)} priors was trained with the present settings and encoders",
            "materialise the priors of the preset's variants first",
        )
    return found


def embedding_scores(
    predicted: Tensor, captions: Captions, encoder_dims: Sequence[int], names: Sequence[str]
) -> dict[str, Any]:
    """How near predicted embeddings come to the true ones.

    The cosine alone rewards predicting the mean, so the recall of the true image among all held-out
    ones stands beside it; each image counts once there, however many captions it has.

    Args:
        predicted: Embeddings [n, d], one a caption.
        captions: The captions with their images' embeddings.
        encoder_dims: Widths of the CLIP encoders, which sum to d.
        names: The encoders' names.

    Returns:
        "cosine" and "cosine_by_encoder", "recall_at_1" and "recall_at_5", and the "count" n.
    """
    true = captions.image.to(predicted.device)
    by_encoder = cosine_by_encoder(predicted, true, encoder_dims).mean(dim=0).tolist()
    images, own = torch.unique(true, dim=0, return_inverse=True)
    recalls = recall_at(predicted, images, RECALL_RANKS, encoder_dims, own)
    return {
        "cosine": sum(by_encoder) / len(by_encoder),
        "cosine_by_encoder": dict(zip(names, by_encoder, strict=True)),
        **{f"recall_at_{rank}": value for rank, value in recalls.items()},
        "count": len(predicted),
    }


def text_embedding_scores(captions: Captions, encoders: dict[str, Any]) -> dict[str, Any]:
    """`embedding_scores` of the CLIP text embeddings: a prior must score higher."""
    return embedding_scores(captions.text, captions, encoders["encoder_dims"], encoders["names"])


def prior_scores(
    prior: PriorModel, captions: Captions, steps: Sequence[int], seed: int, what: str
) -> dict[str, Any]:
    """`embedding_scores` of a prior's samples by the number of sampling steps.

    Args:
        prior: The prior.
        captions: The captions to sample for.
        steps: The numbers of steps.
        seed: The sampling's seed.
        what: The prior's name, for the progress display.

    Returns:
        The scores by the number of steps, with the sampling's wall time in "seconds".
    """
    scores: dict[str, Any] = {}
    tokens, mask, text, _ = captions.batch(torch.arange(len(captions)))
    for count in track(steps, f"sampling from {what}"):
        started = time.perf_counter()
        sampled = prior.sample(tokens, mask, text, num_steps=count, seed=seed)
        wait_for(prior.device)
        seconds = time.perf_counter() - started
        scores[str(count)] = {
            **embedding_scores(
                sampled, captions, prior.encoders["encoder_dims"], prior.encoders["names"]
            ),
            "seconds": round(seconds, 3),
        }
    return scores
