"""Fitting a bank: clusters from a sample of the embeddings, exact moments from one pass over all.

Memory is bounded whatever the number of embeddings: about 1 GB for the sample, then 16 bytes for
every coordinate of every Gaussian and one shard of embeddings.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.config import GaussianSettings, Preset, clusters_of
from corgi_core.encoders.similarity import unit_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.gaussians.stream import ROWS_AT_ONCE, Batches, EmbeddingStream
from corgi_core.mapping import Map, map_here

SMALL_CLUSTER = 32  # with fewer embeddings a cluster's own standard deviation is mostly noise
MIN_STD = 1e-4
ITERATIONS = 25  # of k-means
MAX_RESTARTED = 128  # clusters, to take the best of three starts; with more, luck averages out
SAMPLE_PER_CENTROID = 256  # embeddings that k-means is trained on, if that is less than …
MAX_SAMPLE_BYTES = 10**9  # … so much float32

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BankFit:
    """What a bank was fitted to, and how it went."""

    embeddings: int
    kmeans_sample: int  # embeddings that k-means was trained on; 0 with one cluster
    requested: int  # Gaussians
    k: int  # Gaussians that were fitted
    points_per_gaussian: int  # at least, on average
    small_clusters: int  # of fewer than 32 embeddings
    smallest_cluster: int  # its embeddings
    kmeans_seconds: float
    moments_seconds: float

    @property
    def warnings(self) -> list[str]:
        """Where the bank is not as requested or not well determined, a sentence each."""
        warnings = []
        if self.k < self.requested:
            warnings.append(
                f"{self.requested} Gaussians were requested; {self.embeddings:,} embeddings are "
                f"enough for {self.k} of {self.points_per_gaussian} embeddings each"
            )
        if self.small_clusters:
            warnings.append(
                f"{self.small_clusters} of {self.k} clusters have fewer than {SMALL_CLUSTER} "
                f"embeddings, the smallest {self.smallest_cluster}; their variance is mixed with "
                "the pooled one"
            )
        return warnings


def bank_of(
    variant: str,
    embeddings: EmbeddingStream,
    encoder_dims: Sequence[int],
    preset: Preset,
    mapped: Map = map_here,
) -> tuple[GaussianBank, BankFit | None]:
    """The bank of a variant before it is learned: k fitted Gaussians; N(0, I) for the baseline.

    Args:
        variant: Names k, as `shifted-k16` does.
        embeddings: Those of the training images.
        encoder_dims: The widths of the CLIP encoders.
        preset: Has the seed and the Gaussians' settings.
        mapped: Where the passes over the embeddings are computed; the result is the same.

    Returns:
        The bank, and how the fit went where one was made.
    """
    k = clusters_of(variant)
    if k is None:
        return GaussianBank.standard(encoder_dims), None
    return fit_bank(embeddings, k, encoder_dims, preset.gaussians, preset.seed, mapped)


def fit_bank(
    embeddings: EmbeddingStream | NDArray[np.floating[Any]],
    k: int,
    encoder_dims: Sequence[int],
    settings: GaussianSettings | None = None,
    seed: int = 0,
    mapped: Map = map_here,
) -> tuple[GaussianBank, BankFit]:
    """Fit k Gaussians to the training images' embeddings.

    faiss' spherical k-means on the directions of the embeddings, on its GPUs if it has any, trained
    on a uniform sample of 256 embeddings a cluster or 1 GB, whichever is less. Then one pass over
    all embeddings, whose parts are summed in their order: each embedding goes to its nearest
    centroid, and each cluster's mean and diagonal variance are taken exactly, in float64. An empty
    cluster gets the mean of all embeddings. The variance of a cluster of fewer than 32 is averaged
    with the pooled within-cluster variance, by its size.

    Args:
        embeddings: n embeddings of width d, as a stream or an array [n, d].
        k: the number of Gaussians; at most n / `points_per_gaussian` are fitted.
        encoder_dims: the widths of the CLIP encoders, which sum to d.
        settings: κ, the choice of a caption's Gaussian, and `points_per_gaussian`.
        seed: of the sample and of k-means.
        mapped: where the passes over the embeddings are computed; the result is the same.

    Returns:
        The bank, and how the fit went. Its warnings are logged too.

    Raises:
        CorgiError: if k < 1, if there are no embeddings, if one is not finite or not of width d.
    """
    settings = settings or GaussianSettings()
    if not isinstance(embeddings, EmbeddingStream):
        embeddings = EmbeddingStream.of_array(embeddings)
    if k < 1 or embeddings.count < 1:
        raise CorgiError(
            f"{k} Gaussians cannot be fitted to {embeddings.count} embeddings",
            "ask for one Gaussian or more, of one image or more",
        )
    fitted_k = min(k, max(1, embeddings.count // settings.points_per_gaussian))
    began = time.monotonic()
    sample, centroids = _clusters(embeddings, fitted_k, encoder_dims, seed, mapped)
    clustered = time.monotonic()
    means, variances, sizes = _moments(embeddings, fitted_k, encoder_dims, centroids, mapped)
    fit = BankFit(
        embeddings.count, sample, k, fitted_k, settings.points_per_gaussian,
        int((sizes < SMALL_CLUSTER).sum()), int(sizes.min()),
        clustered - began, time.monotonic() - clustered,
    )  # fmt: skip
    for warning in fit.warnings:
        log.warning(warning)
    pooled = (variances * sizes[:, None]).sum(dim=0) / sizes.sum()
    own = (sizes / SMALL_CLUSTER).clamp(max=1)[:, None]
    std = (own * variances + (1 - own) * pooled).sqrt().clamp(min=MIN_STD)
    bank = GaussianBank(
        means, settings.kappa * std, sizes, encoder_dims, settings.kappa,
        settings.choice, settings.choice_samples,
    )  # fmt: skip
    return bank, fit


def _clusters(
    embeddings: EmbeddingStream, k: int, encoder_dims: Sequence[int], seed: int, mapped: Map
) -> tuple[int, NDArray[np.float32] | None]:
    """Size of the sample of k-means, and its centroids [k, d]; None where there is one cluster."""
    if k == 1:
        return 0, None
    import faiss

    width = sum(encoder_dims)
    size = min(k * SAMPLE_PER_CENTROID, MAX_SAMPLE_BYTES // (4 * width))
    sample = embeddings.sample(max(k, size), seed, "sampling embeddings", mapped)
    for first in range(0, len(sample), ROWS_AT_ONCE):  # in place: one copy of the sample
        rows = slice(first, first + ROWS_AT_ONCE)
        sample[rows] = _directions(sample[rows], encoder_dims)
    kmeans = faiss.Kmeans(
        width, k, niter=ITERATIONS, spherical=True, seed=seed, gpu=faiss.get_num_gpus(),
        nredo=3 if k <= MAX_RESTARTED else 1,
        min_points_per_centroid=1, max_points_per_centroid=len(sample),
    )  # fmt: skip
    kmeans.train(sample)
    return len(sample), np.asarray(kmeans.centroids)


def _directions(z: NDArray[np.float32], encoder_dims: Sequence[int]) -> NDArray[np.float32]:
    directions: NDArray[np.float32] = unit_per_encoder(torch.from_numpy(z), encoder_dims).numpy()
    return directions


@dataclass(frozen=True)
class _Fitting:
    """What every part of the embeddings is summed with."""

    encoder_dims: tuple[int, ...]
    k: int
    centroids: NDArray[np.float32] | None
    origin: Tensor  # [d]: sums are taken about it

    def nearest(self) -> Callable[[NDArray[np.float32]], NDArray[np.int64]]:
        """From embeddings [m, d] to clusters [m]."""
        if self.centroids is None:
            return lambda batch: np.zeros(len(batch), dtype=np.int64)
        import faiss

        index = faiss.IndexFlatIP(self.centroids.shape[1])
        index.add(self.centroids)

        def nearest(batch: NDArray[np.float32]) -> NDArray[np.int64]:
            _, found = index.search(_directions(batch, self.encoder_dims), 1)
            return np.asarray(found[:, 0], dtype=np.int64)

        return nearest


def _moments(
    embeddings: EmbeddingStream,
    k: int,
    encoder_dims: Sequence[int],
    centroids: NDArray[np.float32] | None,
    mapped: Map,
) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances [k, d] in float64, sizes [k]; an empty cluster gets the whole set's.

    Sums are taken about the first batch's mean, so that what is squared is of the size of the
    standard deviation, however far from 0 the embeddings lie (Chan, Golub and LeVeque, 1983).
    """
    width = sum(encoder_dims)
    first_shard = next(shard for shard, count in enumerate(embeddings.counts) if count)
    batch = next(embeddings.batches(first_shard))
    if batch.ndim != 2 or batch.shape[1] != width:
        raise CorgiError(
            f"embeddings of shape {batch.shape} do not fit encoders of widths "
            f"{tuple(encoder_dims)}",
            "compute the embeddings again with these encoders",
        )
    origin = torch.from_numpy(batch).double().mean(dim=0)
    fitting = _Fitting(tuple(encoder_dims), k, centroids, origin)
    sizes = torch.zeros(k, dtype=torch.long)
    first, second = (torch.zeros(k, width, dtype=torch.float64) for _ in range(2))
    with closing(embeddings.parts(_sums, fitting, "fitting Gaussians", mapped)) as parts:
        for part in parts:
            for total, more in zip((sizes, first, second), part, strict=True):
                total += more
    filled = sizes.clamp(min=1)[:, None]
    means, squares = first / filled, second / filled
    empty = sizes == 0
    means[empty], squares[empty] = (s.sum(0) / embeddings.count for s in (first, second))
    return means + origin, (squares - means.square()).clamp(min=0), sizes


def _sums(fitting: _Fitting, _first: int, batches: Batches) -> tuple[Tensor, Tensor, Tensor]:
    """Of some embeddings' clusters: sizes [k], and sums and sums of squares [k, d] in float64."""
    k, width, nearest = fitting.k, len(fitting.origin), fitting.nearest()
    sizes = torch.zeros(k, dtype=torch.long)
    first, second = (torch.zeros(k, width, dtype=torch.float64) for _ in range(2))
    for batch in batches:
        cluster = torch.from_numpy(nearest(batch))
        centred = torch.from_numpy(batch).double() - fitting.origin
        sizes += torch.bincount(cluster, minlength=k)
        first.index_add_(0, cluster, centred)
        second.index_add_(0, cluster, centred.square_())
    return sizes, first, second
