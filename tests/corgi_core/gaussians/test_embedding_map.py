"""The map of embeddings against numpy's singular values and covariances in full."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank, Gaussians
from corgi_core.gaussians.caption_conditioned import CaptionGaussians
from corgi_core.gaussians.embedding_map import CLOUD, MAX_GAUSSIANS, EmbeddingMap

D = 9


@pytest.fixture(scope="module")
def embeddings() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    scales = torch.tensor([5.0, 3.0] + [0.5] * (D - 2))
    turned = torch.linalg.qr(torch.randn(D, D, generator=random)).Q
    return torch.randn(CLOUD + 500, D, generator=random) * scales @ turned.T + 7


def test_the_axes_are_the_directions_of_the_largest_variance(embeddings) -> None:
    plane = EmbeddingMap.of(embeddings)
    centred = embeddings.double().numpy() - embeddings.double().numpy().mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    cosines = np.abs(directions[:2] @ plane.axes.numpy())
    np.testing.assert_allclose(cosines, np.eye(2), atol=1e-4)
    assert plane.explained == pytest.approx(
        np.square(singular[:2]).sum() / np.square(singular).sum()
    )
    np.testing.assert_allclose(
        np.linalg.norm(plane.project(embeddings).numpy(), axis=0), singular[:2], rtol=1e-4
    )
    assert 500 < len(plane.cloud) <= CLOUD
    again = EmbeddingMap.of(embeddings.flip(0))  # nor does a sign change with the order
    torch.testing.assert_close(again.axes, plane.axes, atol=1e-4, rtol=0)


@pytest.mark.parametrize("turned", [False, True])
def test_an_ellipse_is_the_gaussians_shadow(embeddings, turned) -> None:
    plane, random = EmbeddingMap.of(embeddings), torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(D, D, generator=random)).Q if turned else None
    mean, std = torch.randn(2, D, generator=random), 0.2 + torch.rand(2, D, generator=random)
    found = plane.ellipse(Gaussians(mean, std, basis), row=1)
    whole = np.diag(std[1].numpy() ** 2)
    if basis is not None:
        whole = basis.numpy() @ whole @ basis.numpy().T
    along = np.array([np.cos(found["angle"]), np.sin(found["angle"])])
    across = np.array([-along[1], along[0]])
    a, b = found["radii"]
    assert a >= b > 0
    np.testing.assert_allclose(
        a**2 * np.outer(along, along) + b**2 * np.outer(across, across),
        plane.axes.numpy().T @ whole @ plane.axes.numpy(), atol=5e-3,
    )  # fmt: skip
    expected = (mean[1].numpy() - plane.mean.numpy()) @ plane.axes.numpy()
    np.testing.assert_allclose(found["mean"], expected, atol=1e-3)


def test_a_page_gets_the_largest_gaussians_as_plain_json(embeddings) -> None:
    k = MAX_GAUSSIANS + 6
    sizes = torch.arange(k).flip(0)
    bank = GaussianBank(embeddings[:k], torch.full((k, D), 0.5), sizes, (D,), kappa=1.0)
    sent = json.loads(json.dumps(EmbeddingMap.of(embeddings).as_json(bank)))
    assert [each["number"] for each in sent["gaussians"]] == list(range(MAX_GAUSSIANS))
    assert sent["gaussians"][3]["size"] == k - 4
    assert len(sent["cloud"]) <= CLOUD
    assert sent["gaussians"][0]["radii"] == [0.5, 0.5]


def test_of_gaussians_for_every_caption_a_page_gets_that_of_a_dropped_one(embeddings) -> None:
    basis = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(2))).Q
    mean, std = embeddings[0], torch.linspace(0.2, 1, D)
    bank = CaptionGaussians(torch.zeros(3, D), torch.zeros(D), mean, std, basis, (D,), kappa=1.0)
    plane = EmbeddingMap.of(embeddings)
    (only,) = plane.as_json(bank)["gaussians"]
    assert only["mean"] == plane.points(mean[None])[0]
    assert only | plane.ellipse(Gaussians(mean[None], std[None], basis)) == only
    assert (only["number"], only["size"]) == (0, 0)


def test_a_map_needs_embeddings_that_differ() -> None:
    for some in (torch.randn(2, D), torch.ones(9, D)):
        with pytest.raises(CorgiError, match="make no map"):
            EmbeddingMap.of(some)
