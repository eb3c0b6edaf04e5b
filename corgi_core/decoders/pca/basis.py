"""Images as vectors: their coordinates along the principal components of the training images.

Small centred images, such as emoji, vary in far fewer directions than they have pixels: a thousand
components hold about 99 % of the variance of 64 × 64 × 3 pixel values. The components are
orthonormal, so white noise stays white, and a squared error in coordinates is the squared error in
pixels without the part that no component holds. A diffusion over coordinates is therefore a
diffusion over pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corgi_core.decoders.signs import with_fixed_signs

MAX_FITTED = 8192  # of a larger training set, evenly spaced images are fitted: the same components
OVERSAMPLED = 64  # directions beyond k, for accuracy
POWER_ITERATIONS = 1


class PrincipalComponents(nn.Module):
    """`mean` [p] and orthonormal `directions` [p, k] of images with p = 3·s·s values each."""

    mean: Tensor
    directions: Tensor

    def __init__(self, image_size: int, components: int) -> None:
        super().__init__()
        self.image_size = image_size
        pixels = 3 * image_size**2
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("directions", torch.eye(pixels, components))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Compute the k leading components of images [n, 3, s, s] in [−1, 1].

        A randomised range finder with power iterations (Halko, Martinsson and Tropp 2011, algorithm
        4.4), seeded, so that the same images give the same components.
        """
        part = torch.linspace(0, len(images) - 1, min(len(images), MAX_FITTED)).long()
        flat = images[part].flatten(1)
        mean = flat.mean(dim=0)
        centred = flat - mean
        k = self.directions.shape[1]
        random = torch.Generator().manual_seed(0)
        basis = torch.randn(len(centred), k + OVERSAMPLED, generator=random).to(centred)
        for _ in range(POWER_ITERATIONS):
            basis = centred @ torch.linalg.qr(centred.T @ basis).Q
        span = torch.linalg.qr(centred.T @ basis).Q
        _, rotation = torch.linalg.eigh((centred @ span).T.cov())
        self.mean.copy_(mean)
        self.directions.copy_(with_fixed_signs(span @ rotation.flip(1)[:, :k]))

    def project(self, images: Tensor) -> Tensor:
        """Images [n, 3, s, s] → coordinates [n, k]."""
        return (images.flatten(1) - self.mean) @ self.directions

    def reconstruct(self, coordinates: Tensor) -> Tensor:
        """Coordinates [n, k] → images [n, 3, s, s]: the inverse, up to what no component holds."""
        flat = coordinates @ self.directions.T + self.mean
        return flat.view(len(flat), 3, self.image_size, self.image_size)
