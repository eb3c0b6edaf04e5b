"""Picture metrics by their definitions: loops and scipy, for features of a few images."""

from __future__ import annotations

import numpy as np
import scipy.linalg


def share_inside(points: np.ndarray, manifold: np.ndarray, neighbours: int = 3) -> float:
    """The share of points [n, d] in the balls of the manifold's features [m, d].

    Each ball reaches to the feature's third nearest other one (Kynkäänniemi et al., 2019).
    """
    squares = np.square(manifold[:, None] - manifold).sum(axis=2)
    radii = np.sort(squares, axis=1)[:, neighbours]  # the first is the feature itself
    inside = [(np.square(point - manifold).sum(axis=1) <= radii).any() for point in points]
    return float(np.mean(inside))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """The Fréchet distance of features [n, d] and [m, d], with scipy's matrix root."""
    covariances = [np.cov(features, rowvar=False) for features in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    gap = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(gap + np.trace(covariances[0] + covariances[1] - 2 * root))
