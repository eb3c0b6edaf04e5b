"""The contrastive term of a prior's loss: a prediction is to be nearest to its own image.

Equation (4) asks for the mean of all images that a caption fits. ECLIPSE (Patel et al., 2024) adds
InfoNCE (van den Oord et al., 2018), which asks for what tells the caption's image from others.
Where little noise is left a prediction is near its image anyway. So the term acts on the noisy
timesteps, where the caption alone decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed.nn
from torch import Tensor

from corgi_core.encoders.similarity import unit_per_encoder

TEMPERATURE = 0.07  # as CLIP's training begins


def contrastive_error(
    predicted: Tensor, images: Tensor, cond_mask: Tensor, encoder_dims: Sequence[int]
) -> Tensor:
    """The mean of InfoNCE over M noise samples, each with the global batch's other captions.

    A dropped caption cannot tell its image, so it takes no part. Of several workers each computes
    the term of the whole batch; gradients flow through the gathering, so that averaging them over
    the workers gives the term's gradient.

    Args:
        predicted: ẑ_0 of M noise samples a caption [b, M, d].
        images: The captions' own images [b, d].
        cond_mask: [b], False where the caption was dropped.
        encoder_dims: Widths of the encoders, which sum to d.

    Returns:
        The term; 0 where all captions were dropped.
    """
    cond_mask = _gathered(cond_mask)
    predicted, images = _gathered(predicted)[cond_mask], _gathered(images)[cond_mask]
    if not len(images):
        return predicted.sum()
    return info_nce(predicted.transpose(0, 1), images, encoder_dims)


def info_nce(predicted: Tensor, images: Tensor, encoder_dims: Sequence[int]) -> Tensor:
    """InfoNCE in both directions, by cosines averaged over the encoders.

    Args:
        predicted: Row i belongs to image i [..., n, d]; a mean is taken over the leading axes.
        images: Embeddings [n, d].
        encoder_dims: Widths of the encoders, which sum to d.
    """
    a, b = (unit_per_encoder(each, encoder_dims) for each in (predicted, images))
    logits = a @ b.T / (len(encoder_dims) * TEMPERATURE)
    own = logits.diagonal(dim1=-2, dim2=-1)
    both = logits.logsumexp(dim=-1) + logits.logsumexp(dim=-2)
    return (both / 2 - own).mean()


def _gathered(x: Tensor) -> Tensor:
    """The rows of all workers, in their order."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return x
    rows = torch.distributed.nn.all_gather(x)  # type: ignore[no-untyped-call]
    return torch.cat(rows)
