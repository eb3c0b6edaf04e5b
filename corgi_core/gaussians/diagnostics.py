"""How embeddings lie in their space: what decides whether a shift can help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def effective_rank(embeddings: NDArray[np.floating[Any]]) -> float:
    """exp of the entropy of the covariance's normalised spectrum (Roy and Vetterli, 2007).

    Between 1 (all on a line) and d (a ball). embeddings [n, d], n ≥ 2.
    """
    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    spectrum = np.linalg.eigvalsh(centred.T @ centred).clip(min=0)
    shares = spectrum[spectrum > 0] / spectrum.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def modality_gap(
    images: NDArray[np.floating[Any]], texts: NDArray[np.floating[Any]], blocks: Sequence[int]
) -> float:
    """Distance of the two modalities' mean directions, averaged over blocks (Liang et al., 2022).

    images [n, d], texts [m, d]; 0 (no gap) to 2.
    """
    gaps = []
    for start, stop in zip(np.cumsum([0, *blocks]), np.cumsum(blocks), strict=False):
        image, text = (
            (block / np.linalg.norm(block, axis=1, keepdims=True)).mean(axis=0)
            for block in (m[:, start:stop].astype(np.float64) for m in (images, texts))
        )
        gaps.append(np.linalg.norm(image - text))
    return float(np.mean(gaps))
