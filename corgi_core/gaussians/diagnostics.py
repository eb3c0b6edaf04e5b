"""How embeddings lie in their space: what decides whether a shift can help."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from corgi_core.data.arrays import ArrayStore
from corgi_core.encoders.similarity import unit_per_encoder
from corgi_core.gaussians.stream import ROWS_AT_ONCE, Batches, EmbeddingStream
from corgi_core.mapping import Map, map_here

RANK_SAMPLE = 32_768  # embeddings, at most: 20 times the widest ensemble's width


def diagnostics_of(
    training: EmbeddingStream, images: ArrayStore, texts: ArrayStore, mapped: Map = map_here
) -> dict[str, float]:
    """The effective rank of the training images' embeddings, and the modality gap of all.

    Args:
        training: Those of the training images.
        images: The array "image" [n, d] of all images.
        texts: The array "text" [m, d] of all captions.
        mapped: Where the passes over the embeddings are computed; the result is the same.

    Returns:
        "effective_rank" and "modality_gap".
    """
    image = EmbeddingStream.of_store(images, "image")
    text = EmbeddingStream.of_store(texts, "text")
    return {
        "effective_rank": effective_rank(training, mapped=mapped),
        "modality_gap": modality_gap(image, text, images.spec["encoder_dims"], mapped),
    }


def effective_rank(embeddings: EmbeddingStream, seed: int = 0, mapped: Map = map_here) -> float:
    """exp of the entropy of the covariance's normalised spectrum (Roy and Vetterli, 2007).

    Between 1 (all on a line) and d (a ball). Of 2 points or more; of a uniform sample of 32,768
    where there are more, as its covariance costs n d².
    """
    sample = torch.from_numpy(embeddings.sample(RANK_SAMPLE, seed, "effective rank", mapped))
    mean = sample.mean(dim=0, dtype=torch.float64)
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for batch in torch.split(sample, ROWS_AT_ONCE):
        centred = batch - mean
        scatter += centred.T @ centred
    spectrum = torch.linalg.eigvalsh(scatter).clamp(min=0)
    shares = spectrum[spectrum > 0] / spectrum.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def modality_gap(
    images: EmbeddingStream,
    texts: EmbeddingStream,
    encoder_dims: Sequence[int],
    mapped: Map = map_here,
) -> float:
    """Distance of the modalities' mean directions, averaged over encoders (Liang et al., 2022).

    0 (no gap) to 2.
    """
    image, text = (_mean_direction(each, encoder_dims, mapped) for each in (images, texts))
    apart = image - text
    return float(np.mean([float(part.norm()) for part in torch.split(apart, list(encoder_dims))]))


def _mean_direction(
    embeddings: EmbeddingStream, encoder_dims: Sequence[int], mapped: Map
) -> Tensor:
    """Mean of every encoder's unit vectors, [d] in float64."""
    total = torch.zeros(sum(encoder_dims), dtype=torch.float64)
    dims = list(encoder_dims)
    with closing(embeddings.parts(_directions, dims, "modality gap", mapped)) as parts:
        for part in parts:
            total += part
    return total / embeddings.count


def _directions(encoder_dims: Sequence[int], _first: int, batches: Batches) -> Tensor:
    """The sum [d] of the unit vectors of some embeddings."""
    total = torch.zeros(sum(encoder_dims), dtype=torch.float64)
    for batch in batches:
        total += unit_per_encoder(torch.from_numpy(batch).double(), encoder_dims).sum(dim=0)
    return total
