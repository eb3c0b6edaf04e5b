"""Principal components: an orthonormal frame, the one that scikit-learn finds too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from corgi_core.decoders.pca.basis import PrincipalComponents

SIDE, K = 8, 10


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Pictures of twenty strong directions of falling variance, and a little of all others."""
    random = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(192, 20, generator=random)).Q
    strengths = 0.7 ** torch.arange(20)
    flat = torch.randn(400, 20, generator=random) * strengths @ directions.T
    flat = 0.2 + flat + 1e-3 * torch.randn(400, 192, generator=random)
    return flat.unflatten(1, (3, SIDE, SIDE))


@pytest.fixture(scope="module")
def components(pictures: Tensor) -> PrincipalComponents:
    components = PrincipalComponents(SIDE, K)
    components.fit(pictures)
    return components


def test_directions_are_orthonormal(components: PrincipalComponents) -> None:
    gram = components.directions.T @ components.directions
    torch.testing.assert_close(gram, torch.eye(K), atol=1e-5, rtol=0)


def test_they_are_the_principal_components(
    components: PrincipalComponents, pictures: Tensor
) -> None:
    exact = PCA(K, svd_solver="full").fit(pictures.flatten(1).numpy())
    alignment = np.abs(exact.components_ @ components.directions.numpy())
    np.testing.assert_allclose(alignment.diagonal(), 1, atol=1e-3)
    variances = components.project(pictures).var(dim=0).numpy()
    np.testing.assert_allclose(variances, exact.explained_variance_, rtol=1e-3)


def test_errors_in_coordinates_are_errors_in_pixels(components: PrincipalComponents) -> None:
    a, b = torch.randn(2, 5, K)
    pixels = (components.reconstruct(a) - components.reconstruct(b)).flatten(1).norm(dim=1)
    torch.testing.assert_close(pixels, (a - b).norm(dim=1))
    torch.testing.assert_close(
        components.project(components.reconstruct(a)), a, atol=1e-5, rtol=1e-5
    )


def test_fewer_pictures_than_components_are_no_trouble() -> None:
    few = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    components = PrincipalComponents(SIDE, K)
    components.fit(few)
    torch.testing.assert_close(
        components.reconstruct(components.project(few)), few, atol=1e-4, rtol=0
    )


def test_the_same_pictures_give_the_same_components(
    components: PrincipalComponents, pictures: Tensor
) -> None:
    torch.manual_seed(77)  # the global random numbers play no part
    again = PrincipalComponents(SIDE, K)
    again.fit(pictures)
    assert torch.equal(again.directions, components.directions)


def test_a_library_that_turns_eigenvectors_round_gives_the_same_directions(
    components: PrincipalComponents, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    eigh = torch.linalg.eigh

    def turned(matrix: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = eigh(matrix)
        return values, -vectors

    monkeypatch.setattr(torch.linalg, "eigh", turned)
    again = PrincipalComponents(SIDE, K)
    again.fit(pictures)
    assert torch.equal(again.directions, components.directions)
