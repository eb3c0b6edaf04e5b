"""How embeddings lie in their space: what decides whether a shift can help."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from corgi_core.encoders.similarity import unit_per_encoder
from corgi_core.gaussians.points import ROWS_AT_ONCE, Points

RANK_SAMPLE = 32_768  # embeddings, at most: 20 times the widest ensemble's width


def effective_rank(points: Points, seed: int = 0) -> float:
    """exp of the entropy of the covariance's normalised spectrum (Roy and Vetterli, 2007).

    Between 1 (all on a line) and d (a ball). Of 2 points or more; of a uniform sample of 32,768
    where there are more, as its covariance costs n d².
    """
    sample = torch.from_numpy(points.sample(RANK_SAMPLE, seed, "effective rank"))
    mean = sample.mean(dim=0, dtype=torch.float64)
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for block in sample.split(ROWS_AT_ONCE):
        centred = block - mean
        scatter += centred.T @ centred
    spectrum = torch.linalg.eigvalsh(scatter).clamp(min=0)
    shares = spectrum[spectrum > 0] / spectrum.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def modality_gap(images: Points, texts: Points, encoder_dims: Sequence[int]) -> float:
    """Distance of the two modalities' mean directions, averaged over blocks (Liang et al., 2022).

    0 (no gap) to 2.
    """
    apart = _mean_direction(images, encoder_dims) - _mean_direction(texts, encoder_dims)
    return float(np.mean([float(block.norm()) for block in apart.split(list(encoder_dims))]))


def _mean_direction(points: Points, encoder_dims: Sequence[int]) -> Tensor:
    """Mean of every block's unit vectors, [d] in float64."""
    total = torch.zeros(sum(encoder_dims), dtype=torch.float64)
    for block in points.encoder_dims("modality gap"):
        total += unit_per_encoder(torch.from_numpy(block).double(), encoder_dims).sum(dim=0)
    return total / points.count
