"""Fitting a bank: clusters from a sample of the embeddings, exact moments from one pass over all.

Memory is bounded whatever the number of embeddings: about 1 GB for the sample, then 16 bytes for
every coordinate of every Gaussian and one block of embeddings.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.config import GaussianSettings
from corgi_core.encoders.similarity import unit_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.gaussians.points import ROWS_AT_ONCE, Points

SMALL_CLUSTER = 32  # below this many points a cluster's own deviation is noise
SMALLEST_DEVIATION = 1e-4
ITERATIONS = 25  # of k-means
RESTARTS_UP_TO = 128  # clusters: the best of three starts; with more, luck averages out
POINTS_PER_CENTROID = 256  # in the sample, if that is less than …
SAMPLE_BYTES = 10**9  # … so much float32

Nearest = Callable[[NDArray[np.float32]], NDArray[np.int64]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BankFit:
    """What a fit was made from and how it went."""

    points: int
    sample: int  # of the points, on which k-means was trained; 0 where there was one cluster
    wanted: int  # Gaussians that were asked for
    k: int  # Gaussians that there are
    points_per_gaussian: int  # at least, on average
    small_clusters: int  # of fewer than 32 points
    smallest: int  # points
    clustering_seconds: float
    pass_seconds: float  # of the pass for the moments

    @property
    def remarks(self) -> list[str]:
        """What people should know of the bank, in a sentence each; none where all is as asked."""
        remarks = []
        if self.k < self.wanted:
            remarks.append(
                f"{self.wanted} Gaussians were asked for; {self.points:,} embeddings bear "
                f"{self.k} of {self.points_per_gaussian} points each"
            )
        if self.small_clusters:
            remarks.append(
                f"{self.small_clusters} of {self.k} clusters have fewer than {SMALL_CLUSTER} "
                f"points, the smallest {self.smallest}; they borrow from the pooled deviation"
            )
        return remarks


def fit_bank(
    embeddings: Points | NDArray[np.floating[Any]],
    k: int,
    encoder_dims: Sequence[int],
    settings: GaussianSettings | None = None,
    seed: int = 0,
) -> tuple[GaussianBank, BankFit]:
    """Fit k Gaussians to the training images' embeddings, `Points` or an array [n, d].

    faiss' spherical k-means on the directions of the blocks, on its GPUs if it has any, trained on
    a uniform sample of 256 points a cluster or 1 GB, whichever is less. Then one pass over all
    points: each goes to its nearest centroid, and each cluster's mean and diagonal deviation are
    taken exactly, in float64. Of n points, k is at most n / `points_per_gaussian`.

    A cluster of fewer than 32 points borrows: its variance is the mean of its own and the pooled
    within-cluster variance, weighted by its size. An empty cluster has the whole set's mean.

    Raises CorgiError if k < 1 or there are no points, if one is not finite or not Σ blocks wide.
    """
    settings = settings or GaussianSettings()
    points = embeddings if isinstance(embeddings, Points) else Points.of(embeddings)
    if k < 1 or points.count < 1:
        raise CorgiError(
            f"{k} Gaussians cannot be fitted to {points.count} embeddings",
            "ask for one Gaussian or more, of one image or more",
        )
    bearable = min(k, max(1, points.count // settings.points_per_gaussian))
    began = time.monotonic()
    sample, nearest = _clusters(points, bearable, encoder_dims, seed)
    clustered = time.monotonic()
    means, variances, sizes = _moments(points, bearable, encoder_dims, nearest)
    fit = BankFit(
        points.count, sample, k, bearable, settings.points_per_gaussian,
        int((sizes < SMALL_CLUSTER).sum()), int(sizes.min()),
        clustered - began, time.monotonic() - clustered,
    )  # fmt: skip
    for remark in fit.remarks:
        log.warning(remark)
    pooled = (variances * sizes[:, None]).sum(dim=0) / sizes.sum()
    own = (sizes / SMALL_CLUSTER).clamp(max=1)[:, None]
    deviations = (own * variances + (1 - own) * pooled).sqrt().clamp(min=SMALLEST_DEVIATION)
    bank = GaussianBank(
        means, settings.kappa * deviations, sizes, encoder_dims, settings.kappa,
        settings.choice, settings.choice_samples,
    )  # fmt: skip
    return bank, fit


def _clusters(
    points: Points, k: int, encoder_dims: Sequence[int], seed: int
) -> tuple[int, Nearest]:
    """Size of the sample that k-means saw, and a function from points [m, d] to clusters [m]."""
    if k == 1:
        return 0, lambda block: np.zeros(len(block), dtype=np.int64)
    import faiss

    width = sum(encoder_dims)
    size = min(k * POINTS_PER_CENTROID, SAMPLE_BYTES // (4 * width))
    sample = points.sample(max(k, size), seed, "sampling embeddings")
    for first in range(0, len(sample), ROWS_AT_ONCE):  # in place: one copy of the sample
        rows = slice(first, first + ROWS_AT_ONCE)
        sample[rows] = _directions(sample[rows], encoder_dims)
    kmeans = faiss.Kmeans(
        width, k, niter=ITERATIONS, spherical=True, seed=seed, gpu=faiss.get_num_gpus(),
        nredo=3 if k <= RESTARTS_UP_TO else 1,
        min_points_per_centroid=1, max_points_per_centroid=len(sample),
    )  # fmt: skip
    kmeans.train(sample)

    def nearest(block: NDArray[np.float32]) -> NDArray[np.int64]:
        _, found = kmeans.index.search(_directions(block, encoder_dims), 1)
        return np.asarray(found[:, 0], dtype=np.int64)

    return len(sample), nearest


def _directions(points: NDArray[np.float32], encoder_dims: Sequence[int]) -> NDArray[np.float32]:
    directions: NDArray[np.float32] = unit_per_encoder(
        torch.from_numpy(points), encoder_dims
    ).numpy()
    return directions


def _moments(
    points: Points, k: int, encoder_dims: Sequence[int], nearest: Nearest
) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances [k, d] in float64, sizes [k]; an empty cluster gets the whole set's.

    Sums are taken about the first block's mean, so that what is squared is of the size of the
    deviation, however far from 0 the points lie (Chan, Golub and LeVeque, 1983).
    """
    width = sum(encoder_dims)
    sizes = torch.zeros(k, dtype=torch.long)
    first, second = (torch.zeros(k, width, dtype=torch.float64) for _ in range(2))
    origin: Tensor | None = None
    for block in points.encoder_dims("fitting Gaussians"):
        if block.ndim != 2 or block.shape[1] != width:
            raise CorgiError(
                f"embeddings of shape {block.shape} do not fit encoders of widths "
                f"{tuple(encoder_dims)}",
                "compute the embeddings again with these encoders",
            )
        cluster = torch.from_numpy(nearest(block))
        centred = torch.from_numpy(block).double()
        origin = centred.mean(dim=0) if origin is None else origin
        centred -= origin
        sizes += torch.bincount(cluster, minlength=k)
        first.index_add_(0, cluster, centred)
        second.index_add_(0, cluster, centred.square_())
    assert origin is not None  # there is a point
    filled = sizes.clamp(min=1)[:, None]
    means, squares = first / filled, second / filled
    empty = sizes == 0
    means[empty], squares[empty] = first.sum(0) / points.count, second.sum(0) / points.count
    return means + origin, (squares - means.square()).clamp(min=0), sizes
