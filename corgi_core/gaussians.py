"""The bank of Gaussians N(μᵢ, (κσᵢ)²) from which the shifted diffusion starts.

The bank owns the one change of variables that turns the shifted diffusion into the standard one:
u = (z − μ_c)/(κσ_c). The DALL-E 2 baseline is the bank with μ = 0 and κσ = 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from upath import UPath

from corgi_core.encoders.similarity import blockwise_cosine
from corgi_core.errors import CorgiError
from corgi_core.model_folder import digest_of_tensors, read_model_folder, write_model_folder

KIND = "gaussian-bank"
SMALL_CLUSTER = 32  # below this many points a cluster's own deviation is noise
SMALLEST_DEVIATION = 1e-4


class GaussianBank(nn.Module):
    """k Gaussians with diagonal deviations.

    Buffers: means [k, d]; deviations [k, d], already scaled by κ, all positive. `blocks` are the
    widths of the CLIP encoders, Σ blocks = d. `sizes` [k] counts the points behind each Gaussian.
    """

    means: Tensor
    deviations: Tensor
    sizes: Tensor

    def __init__(
        self, means: Tensor, deviations: Tensor, sizes: Tensor, blocks: Sequence[int], kappa: float
    ) -> None:
        super().__init__()
        if means.shape != deviations.shape or means.shape[1] != sum(blocks):
            raise CorgiError(
                f"a bank's means {tuple(means.shape)} and deviations {tuple(deviations.shape)} "
                f"must both be [k, {sum(blocks)}]",
                "fit the bank again on embeddings of these encoders",
            )
        if not bool((deviations > 0).all()):
            raise CorgiError("a Gaussian's deviation is not positive", "fit the bank again")
        self.register_buffer("means", means.float())
        self.register_buffer("deviations", deviations.float())
        self.register_buffer("sizes", sizes.long())
        self.blocks = tuple(int(b) for b in blocks)
        self.kappa = float(kappa)

    @property
    def k(self) -> int:
        return self.means.shape[0]

    @property
    def width(self) -> int:
        return self.means.shape[1]

    @property
    def config(self) -> dict[str, Any]:
        return {"blocks": list(self.blocks), "kappa": self.kappa}

    @property
    def digest(self) -> str:
        return digest_of_tensors(self.state_dict())

    @classmethod
    def standard(cls, blocks: Sequence[int]) -> Self:
        """N(0, I): with it the shifted diffusion is the DALL-E 2 baseline."""
        width = sum(blocks)
        zeros = torch.zeros(1, width)
        return cls(zeros, torch.ones(1, width), torch.zeros(1), blocks, kappa=1.0)

    def choose(self, text: Tensor) -> Tensor:
        """c(y) = argmaxᵢ cos(μᵢ, f_txt(y)), from the caption alone. text [n, d] → [n], long."""
        if self.k == 1:
            return torch.zeros(len(text), dtype=torch.long, device=text.device)
        return blockwise_cosine(text.unsqueeze(1), self.means, self.blocks).argmax(dim=1)

    def whiten(self, z: Tensor, c: Tensor) -> Tensor:
        """u = (z − μ_c)/(κσ_c). z [n, d], c [n] → u [n, d]."""
        return (z - self.means[c]) / self.deviations[c]

    def unwhiten(self, u: Tensor, c: Tensor) -> Tensor:
        """z = μ_c + κσ_c u, the inverse of `whiten`."""
        return self.means[c] + self.deviations[c] * u

    def save(self, folder: Path | UPath) -> None:
        write_model_folder(folder, KIND, self.config, self.state_dict(), card={})

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        saved = read_model_folder(folder, KIND)
        return cls.from_parts(saved.tensors, saved.config)

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """A bank from its state dict and {"blocks", "kappa"}, as models that hold one keep it."""
        return cls(
            tensors["means"], tensors["deviations"], tensors["sizes"],
            config["blocks"], config["kappa"],
        )  # fmt: skip


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


def effective_rank(embeddings: NDArray[np.floating[Any]]) -> float:
    """exp of the entropy of the covariance's normalised spectrum (Roy and Vetterli, 2007).

    Between 1 (all on a line) and d (a ball). embeddings [n, d], n ≥ 2.
    """
    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    spectrum = np.linalg.eigvalsh(centred.T @ centred).clip(min=0)
    shares = spectrum[spectrum > 0] / spectrum.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def modality_gap(
    images: NDArray[np.floating[Any]], texts: NDArray[np.floating[Any]], blocks: Sequence[int]
) -> float:
    """Distance of the two modalities' mean directions, averaged over blocks (Liang et al., 2022).

    images [n, d], texts [m, d]; 0 (no gap) to 2.
    """
    gaps = []
    for start, stop in zip(np.cumsum([0, *blocks]), np.cumsum(blocks), strict=False):
        image, text = (
            (block / np.linalg.norm(block, axis=1, keepdims=True)).mean(axis=0)
            for block in (m[:, start:stop].astype(np.float64) for m in (images, texts))
        )
        gaps.append(np.linalg.norm(image - text))
    return float(np.mean(gaps))
