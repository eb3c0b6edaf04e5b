"""CMMD: the maximum mean discrepancy of CLIP embeddings (Jayasumana et al., 2024).

The paper's CLIP is ViT-L/14 at 336 pixels: values of another CLIP cannot be compared with its own.
"""

from __future__ import annotations

import numpy as np

from corgi_core.metrics.features import Features, check_features, unit_rows
from corgi_core.metrics.mmd import MMD, Matrix, squared_mmd

SIGMA = 10.0  # the kernel's width, the paper's
SCALE = 1000.0  # by which the paper multiplies


def cmmd(real: Features, generated: Features) -> MMD:
    """1,000 times the squared discrepancy of embeddings of norm 1, without bias.

    The kernel is exp(−‖x − y‖² / (2 · 10²)). The authors' program has the biased estimate, which is
    larger by about 1,000 · (1/n + 1/m) · E[1 − k], or 0.001 for sets of 10,000.

    Args:
        real: CLIP embeddings [n, d], n ≥ 2, of any norm but 0.
        generated: CLIP embeddings [m, d], m ≥ 2.

    Returns:
        The estimate and its standard error.

    Raises:
        CorgiError: a set is too small, an embedding is not finite, or the widths differ.
    """
    check_features(real)
    check_features(generated)
    return squared_mmd(unit_rows(real), unit_rows(generated), scaled_gaussian)


def scaled_gaussian(a: Matrix, b: Matrix) -> Matrix:
    """1,000 times the kernel, of rows of norm 1, whose squared distance is 2 − 2 x·y."""
    values = a @ b.T
    values -= 1
    values /= SIGMA**2
    np.exp(values, out=values)
    values *= SCALE
    return values
