"""The affine map that moves one Gaussian to another with the least squared distance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MATRIX, SHIFT = "matching.matrix", "matching.shift"  # of a prior's tensors
LARGEST = 2.0  # factor by which a direction is stretched
SMALLEST = 1e-6  # of a covariance's largest eigenvalue: what is less is not inverted

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AffineMap:
    """z ↦ z M + b.

    Attributes:
        matrix: M [d, d], symmetric.
        shift: b [d].
    """

    matrix: Tensor
    shift: Tensor

    @classmethod
    def between(cls, samples: Tensor, images: Tensor, share: float) -> Self:
        """A share of the way from the samples' mean and covariance to the images'.

        All the way it is z ↦ μ_i + (z − μ_s) T, with T = R⁻¹ (R Σ_i R)^½ R⁻¹ and R = Σ_s^½ (Olkin
        and Pukelsheim, 1982). But T stretches no direction more than twice: what samples hardly
        vary in is chance, and should not become variance.

        Args:
            samples: [n, d].
            images: [m, d].
            share: 0 is no map, 1 all the way.
        """
        x, y = (each.double().numpy() for each in (samples, images))
        own, theirs = np.cov(x.T), np.cov(y.T)
        root, inverse = _power(own, 0.5), _power(own, -0.5)
        whole = _power(inverse @ _power(root @ theirs @ root, 0.5) @ inverse, 1, LARGEST)
        matrix = (1 - share) * np.eye(len(own)) + share * whole
        mean = x.mean(axis=0)
        shift = mean + share * (y.mean(axis=0) - mean) - mean @ matrix
        return cls(torch.from_numpy(matrix).float(), torch.from_numpy(shift).float())

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Self | None:
        """The map among a model's tensors, if there is one."""
        if MATRIX not in tensors:
            return None
        return cls(tensors[MATRIX], tensors[SHIFT])

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What `of_tensors` finds."""
        return {MATRIX: self.matrix, SHIFT: self.shift}

    def __call__(self, z: Tensor) -> Tensor:
        """z [n, d] → [n, d], in float32."""
        with torch.autocast(z.device.type, enabled=False):
            return z.float() @ self.matrix + self.shift

    def to(self, device: torch.device | str) -> Self:
        """The same map on a device."""
        return type(self)(self.matrix.to(device), self.shift.to(device))


def _power(symmetric: Matrix, exponent: float, largest: float = np.inf) -> Matrix:
    """A power of a symmetric matrix [d, d], its eigenvalues at least 0 and at most `largest`."""
    values, vectors = np.linalg.eigh(symmetric)
    smallest = max(SMALLEST * values[-1], np.finfo(np.float64).tiny)
    powered: Matrix = (
        vectors * (values.clip(min=smallest) ** exponent).clip(max=largest)
    ) @ vectors.T
    return powered
