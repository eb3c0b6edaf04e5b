"""Pictures as vectors: their coordinates along the principal components of the training pictures.

Small centred pictures, such as emoji, vary in far fewer ways than they have pixels: a thousand
components hold about 99 % of the variance of 64 × 64 × 3 pixels. The components are orthonormal, so
white noise stays white and a squared error in coordinates is the squared error in pixels, but for
the part that no component holds. So a diffusion over coordinates is a diffusion over pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PICTURES_FITTED = 8192  # an evenly spaced part of a larger training set has the same components
OVERSAMPLED = 64  # directions beyond those kept, for accuracy
POWER_ITERATIONS = 1


class PrincipalComponents(nn.Module):
    """`mean` [p] and orthonormal `directions` [p, k] of pictures with p = 3·s·s values each."""

    mean: Tensor
    directions: Tensor

    def __init__(self, image_size: int, components: int) -> None:
        super().__init__()
        self.image_size = image_size
        pixels = 3 * image_size**2
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("directions", torch.eye(pixels, components))

    @torch.no_grad()
    def fit(self, pictures: Tensor) -> None:
        """Take the k leading components of pictures [n, 3, s, s] in [−1, 1].

        By a randomised range finder with power iterations (Halko, Martinsson and Tropp 2011,
        algorithm 4.4), seeded, so that the same pictures give the same components.
        """
        part = torch.linspace(0, len(pictures) - 1, min(len(pictures), PICTURES_FITTED)).long()
        flat = pictures[part].flatten(1)
        mean = flat.mean(dim=0)
        centred = flat - mean
        k = self.directions.shape[1]
        random = torch.Generator().manual_seed(0)
        guess = torch.randn(len(centred), k + OVERSAMPLED, generator=random).to(centred)
        for _ in range(POWER_ITERATIONS):
            guess = centred @ torch.linalg.qr(centred.T @ guess).Q
        span = torch.linalg.qr(centred.T @ guess).Q
        _, rotation = torch.linalg.eigh((centred @ span).T.cov())
        self.mean.copy_(mean)
        self.directions.copy_(span @ rotation.flip(1)[:, :k])

    def coordinates(self, pictures: Tensor) -> Tensor:
        """Pictures [n, 3, s, s] → [n, k]."""
        return (pictures.flatten(1) - self.mean) @ self.directions

    def pictures(self, coordinates: Tensor) -> Tensor:
        """[n, k] → pictures [n, 3, s, s]: the inverse, but for what no component holds."""
        flat = coordinates @ self.directions.T + self.mean
        return flat.unflatten(1, (3, self.image_size, self.image_size))
