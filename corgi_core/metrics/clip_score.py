"""CLIP score: the cosine of CLIP embeddings of pictures with captions, or with other pictures.

Hessel et al., 2021, times 100, as it is reported. The paper of shifted diffusion averages it over
CLIP encoders, as one of them, which the model has learned from, would flatter it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def clip_scores(cosines: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """100 · max(cosine, 0) of each picture [n], whose mean is the score."""
    scores: NDArray[np.float64] = 100 * cosines.clip(min=0).astype(np.float64)
    return scores


def clip_score(cosines: NDArray[np.floating[Any]]) -> float:
    """100 · max(cosine, 0), averaged.

    Args:
        cosines: Of each picture with its caption, or with its real image [n], each averaged over
            the encoders (`corgi_core.encoders.similarity.mean_encoder_cosine`).

    Returns:
        The score, in [0, 100].

    Examples:
        >>> clip_score(np.array([0.5, 0.25, -1.0, 0.25]))
        25.0
    """
    return float(clip_scores(cosines).mean())
