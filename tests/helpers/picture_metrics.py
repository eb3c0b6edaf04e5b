"""Picture metrics by their definitions: loops and singular values, for features of a few images."""

from __future__ import annotations

import numpy as np


def share_inside(points: np.ndarray, manifold: np.ndarray, neighbours: int = 3) -> float:
    """The share of points [n, d] in the balls of the manifold's features [m, d].

    Each ball reaches to the feature's third nearest other one (Kynkäänniemi et al., 2019).
    """
    squares = np.square(manifold[:, None] - manifold).sum(axis=2)
    radii = np.sort(squares, axis=1)[:, neighbours]  # the first is the feature itself
    inside = [(np.square(point - manifold).sum(axis=1) <= radii).any() for point in points]
    return float(np.mean(inside))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """The Fréchet distance of features [n, d] and [m, d], by the singular values of A Bᵀ.

    With Σ_a = Aᵀ A and Σ_b = Bᵀ B their sum is the trace of (Σ_a Σ_b)^½.
    """
    x, y = ((z - z.mean(axis=0)).astype(np.float64) / np.sqrt(len(z) - 1) for z in (a, b))
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    gap = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(gap + np.square(x).sum() + np.square(y).sum() - 2 * cross)
