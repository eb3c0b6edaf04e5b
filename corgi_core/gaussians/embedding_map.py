"""Embeddings on a plane: what people look at to see where a prior starts and where it goes.

The plane has the two directions in which the training embeddings differ most (PCA). A Gaussian's
shadow on it is a Gaussian as well, which an ellipse shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank, Gaussians
from corgi_core.gaussians.caption_conditioned import CaptionGaussians

CLOUD = 1500  # points
MAX_GAUSSIANS = 64  # the largest; a bank may have a thousand
DECIMALS = 3


@dataclass(frozen=True)
class EmbeddingMap:
    """Two directions of an embedding space, and the cloud of embeddings that decided them.

    Attributes:
        mean: Of the embeddings [d], the map's origin.
        axes: Orthonormal directions [d, 2], that of the largest variance first.
        explained: The share of the embeddings' variance that the two have, in [0, 1].
        cloud: Some of the embeddings on the map [m, 2].
    """

    mean: Tensor
    axes: Tensor
    explained: float
    cloud: Tensor

    @classmethod
    def of(cls, embeddings: Tensor) -> Self:
        """The map of some embeddings [n, d], of which at most 1,500 become the cloud.

        Raises:
            CorgiError: If there are fewer than three, or all are the same.
        """
        z = embeddings.detach().cpu().double()
        mean = z.mean(dim=0)
        centred = z - mean
        if len(z) < 3 or not bool(centred.any()):
            raise CorgiError(
                f"{len(z)} embeddings make no map", "give at least three different ones"
            )
        variances, directions = torch.linalg.eigh(centred.T @ centred)
        axes = directions[:, [-1, -2]]
        largest = axes.abs().argmax(dim=0)
        axes = axes * axes[largest, [0, 1]].sign()  # an eigenvector's sign is chance
        every = max(1, math.ceil(len(z) / CLOUD))
        return cls(
            mean.float(), axes.float(), float(variances[-2:].sum() / variances.sum()),
            (centred[::every] @ axes).float(),
        )  # fmt: skip

    def project(self, z: Tensor) -> Tensor:
        """Embeddings [n, d] → their points on the map [n, 2]."""
        return (z.detach().cpu().float() - self.mean) @ self.axes

    def points(self, z: Tensor) -> list[list[float]]:
        """Embeddings [n, d] → their n points [x, y], to three decimals."""
        return _rounded(self.project(z))

    def ellipse(self, gaussians: Gaussians, row: int = 0) -> dict[str, Any]:
        """One of the Gaussians: its mean, and its half-axes of one standard deviation.

        Returns:
            {"mean": [x, y], "radii": [a, b], "angle": radians from the first axis to a's}, a ≥ b.
        """
        axes, basis = self.axes, gaussians.basis
        if basis is not None:
            axes = basis.detach().cpu().T @ axes
        scaled = gaussians.std[row].detach().cpu().float().unsqueeze(1) * axes
        variances, directions = torch.linalg.eigh(scaled.T @ scaled)
        x, y = directions[:, 1].tolist()
        radii = variances.clamp(min=0).sqrt().tolist()
        return {
            "mean": self.points(gaussians.mean[row : row + 1])[0],
            "radii": [round(radii[1], DECIMALS), round(radii[0], DECIMALS)],
            "angle": round(math.atan2(y, x), DECIMALS),
        }

    def as_json(self, bank: GaussianBank | CaptionGaussians) -> dict[str, Any]:
        """The map for a page, in numbers of three decimals.

        Returns:
            {"explained": share, "cloud": [[x, y], …], "gaussians": [ellipse with "number" and
            "size", …]}, the bank's largest Gaussians. Where every caption has its own Gaussian, it
            is that of a dropped caption.
        """
        if isinstance(bank, CaptionGaussians):
            only = Gaussians(bank.means, bank.std.unsqueeze(0), bank.basis)
            gaussians = [self.ellipse(only) | {"number": 0, "size": 0}]
        else:
            numbers = bank.sizes.argsort(descending=True, stable=True)[:MAX_GAUSSIANS].sort().values
            some, sizes = bank.gaussians(numbers), bank.sizes[numbers].tolist()
            gaussians = [
                self.ellipse(some, row) | {"number": number, "size": sizes[row]}
                for row, number in enumerate(numbers.tolist())
            ]
        return {
            "explained": round(self.explained, DECIMALS),
            "cloud": _rounded(self.cloud),
            "gaussians": gaussians,
        }


def _rounded(points: Tensor) -> list[list[float]]:
    return [[round(x, DECIMALS), round(y, DECIMALS)] for x, y in points.tolist()]
