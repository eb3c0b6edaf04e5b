"""The Fréchet distance between two sets of features (Heusel et al., 2017).

It is called FID only where the features are Inception's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean [d] and covariance [d, d] (divisor n − 1) of n features, float64."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray[np.floating[Any]]) -> Self:
        """Statistics of features [n, d].

        Raises:
            CorgiError: there are fewer than two, or one is not finite.
        """
        if features.ndim != 2 or len(features) < 2:
            raise CorgiError(
                f"features of shape {features.shape} have no covariance", "give at least two images"
            )
        if not np.isfinite(features).all():
            raise CorgiError("a feature is not finite", "look for broken images or embeddings")
        wide = features.astype(np.float64)
        return cls(wide.mean(axis=0), np.atleast_2d(np.cov(wide, rowvar=False)))


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), at least 0.

    The trace of the root is the sum of the roots of the eigenvalues of Σ_a Σ_b, which are also
    those of the symmetric Σ_a^½ Σ_b Σ_a^½: so no complex root arises, and covariances may be
    singular.

    Args:
        a: Statistics of one set of features.
        b: Statistics of the other, of the same width.

    Examples:
        >>> square = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
        >>> moved = square + [3.0, 4.0]
        >>> round(frechet_distance(FeatureStatistics.of(square), FeatureStatistics.of(moved)), 6)
        25.0
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b.covariance @ root).clip(min=0)).sum()
    gap = np.square(a.mean - b.mean).sum()
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return float(max(gap + traces - 2 * cross, 0.0))
