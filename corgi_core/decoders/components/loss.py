"""What the components decoder minimises: errors of x̂_0, weighted by how much is left to see."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_WEIGHT = 5.0


def truncated_snr_weights(alpha_bar: Tensor) -> Tensor:
    """w = clamp(SNR, 1, 5): Salimans & Ho 2022's truncated SNR, bounded as by Hang et al. 2023."""
    return (alpha_bar / (1 - alpha_bar)).clamp(1.0, MOST_WEIGHT)


def denoising_loss(x_0: Tensor, predicted: Tensor, alpha_bar: Tensor, values: int) -> Tensor:
    """Mean over the batch of w_t ‖x_0 − x̂_0‖² / values; alpha_bar [n] at each picture's t.

    x_0, predicted [n, k] are coordinates; `values` is a picture's number of pixel values.
    """
    errors = (x_0 - predicted).square().sum(dim=1) / values
    return torch.mean(truncated_snr_weights(alpha_bar) * errors)
