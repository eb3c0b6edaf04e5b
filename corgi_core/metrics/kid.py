"""The kernel distance of two sets of features (Bińkowski et al., 2018).

With Inception's features it is KID. Its estimate has no bias, whatever the number of pictures.
"""

from __future__ import annotations

from corgi_core.metrics.features import Features
from corgi_core.metrics.mmd import MMD, Matrix, squared_mmd


def kid(real: Features, generated: Features) -> MMD:
    """The squared discrepancy under the kernel (x·y / d + 1)³ (section 4).

    Args:
        real: Features [n, d], n ≥ 2.
        generated: Features [m, d], m ≥ 2.

    Returns:
        The estimate and its standard error. Published values are often ×1,000; these are not.

    Raises:
        CorgiError: a set is too small, a feature is not finite, or the widths differ.
    """
    return squared_mmd(real, generated, cubic)


def cubic(a: Matrix, b: Matrix) -> Matrix:
    """The kernel of features [n, d] and [m, d]: its values of all pairs [n, m]."""
    values = a @ b.T
    values /= a.shape[1]
    values += 1
    cubed: Matrix = values * values * values
    return cubed
