"""Fitting a bank: clusters of the training images' embeddings, and their moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank

SMALL_CLUSTER = 32  # below this many points a cluster's own deviation is noise
SMALLEST_DEVIATION = 1e-4


def fit_bank(
    embeddings: NDArray[np.floating[Any]],
    k: int,
    blocks: Sequence[int],
    kappa: float = 1.0,
    seed: int = 0,
    iterations: int = 25,
) -> GaussianBank:
    """Fit k Gaussians to the training images' embeddings [n, d].

    Clusters by faiss' spherical k-means on the blocks' directions, over all n points, then takes
    each cluster's mean and diagonal deviation. A cluster of fewer than 32 points borrows: its
    variance is the mean of its own and the pooled within-cluster variance, weighted by its size.

    Raises CorgiError if k exceeds n or if an embedding is not finite or has another width.
    """
    points = np.ascontiguousarray(embeddings, dtype=np.float32)
    if points.ndim != 2 or points.shape[1] != sum(blocks):
        raise CorgiError(
            f"embeddings of shape {points.shape} do not fit encoders of widths {tuple(blocks)}",
            "compute the embeddings again with these encoders",
        )
    if not 1 <= k <= len(points):
        raise CorgiError(
            f"{k} Gaussians cannot be fitted to {len(points)} embeddings",
            f"choose k between 1 and {len(points)}, or ingest more images",
        )
    if not np.isfinite(points).all():
        raise CorgiError("an embedding is not finite", "materialise the embeddings again")
    cluster = (
        np.zeros(len(points), dtype=np.int64) if k == 1 else _cluster(points, k, iterations, seed)
    )
    means, variances, sizes = _moments(points, cluster, k)
    pooled = (variances * sizes[:, None]).sum(axis=0) / sizes.sum()
    own = np.clip(sizes / SMALL_CLUSTER, 0, 1)[:, None]
    deviations = np.sqrt(own * variances + (1 - own) * pooled).clip(min=SMALLEST_DEVIATION)
    return GaussianBank(
        torch.from_numpy(means),
        torch.from_numpy(kappa * deviations),
        torch.from_numpy(sizes),
        blocks,
        kappa,
    )


def _cluster(points: NDArray[np.float32], k: int, iterations: int, seed: int) -> NDArray[np.int64]:
    import faiss

    directions = points / np.linalg.norm(points, axis=1, keepdims=True)
    kmeans = faiss.Kmeans(
        points.shape[1], k, niter=iterations, spherical=True, seed=seed, nredo=3,
        min_points_per_centroid=1, max_points_per_centroid=len(points),
    )  # fmt: skip
    kmeans.train(directions)
    _, nearest = kmeans.index.search(directions, 1)
    return np.asarray(nearest[:, 0], dtype=np.int64)


def _moments(
    points: NDArray[np.float32], cluster: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Means and variances [k, d] in float64, sizes [k]; an empty cluster gets the whole set's."""
    means = np.empty((k, points.shape[1]))
    variances = np.empty_like(means)
    sizes = np.bincount(cluster, minlength=k)
    for i in range(k):
        members = points[cluster == i] if sizes[i] else points
        means[i] = members.mean(axis=0, dtype=np.float64)
        variances[i] = members.var(axis=0, dtype=np.float64)
    return means, variances, sizes
