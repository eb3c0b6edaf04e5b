"""CLIP score: the cosine of CLIP embeddings of pictures with captions, or with other pictures.

Hessel et al., 2021, times 100, as it is reported. The paper of shifted diffusion averages it over
CLIP encoders, as one of them, which the model has learned from, would flatter it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from corgi_core.encoders.similarity import cosine_by_encoder


def clip_score(pictures: Tensor, others: Tensor, encoder_dims: Sequence[int]) -> float:
    """100 · max(cosine, 0), of each pair and under each encoder, averaged.

    Args:
        pictures: Embeddings of pictures [n, d], the outputs of all encoders side by side.
        others: Those of the captions, or of the pictures that they are compared with [n, d].
        encoder_dims: Widths of the encoders, which sum to d.

    Returns:
        The score, in [0, 100].

    Raises:
        CorgiError: the embeddings are not of these encoders.
    """
    cosines = cosine_by_encoder(pictures, others, encoder_dims)
    return float(100 * cosines.clamp(min=0).double().mean())
