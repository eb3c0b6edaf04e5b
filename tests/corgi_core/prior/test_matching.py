"""Matching moments: the map by its definition, and which samples of a prior go through it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.metrics.frechet import FeatureStatistics, frechet_distance
from corgi_core.prior.affine_map import AffineMap
from corgi_core.prior.matching import matched_prior
from corgi_core.prior.model import PriorModel
from tests.helpers.tiny_prior import SETTINGS, made_prior

D = 6


def made() -> tuple[torch.Tensor, torch.Tensor]:
    """Samples and images, whose covariances differ by no more than a factor of 3 anywhere."""
    random = torch.Generator().manual_seed(0)
    mixed = torch.randn(D, D, generator=random)
    images = torch.randn(400, D, generator=random) @ mixed + 1
    slanted = torch.eye(D) + 0.1 * torch.randn(D, D, generator=random)
    return 0.8 * torch.randn(400, D, generator=random) @ mixed @ slanted, images


def moments(z: torch.Tensor) -> FeatureStatistics:
    return FeatureStatistics.of(z.double().numpy())


def test_all_the_way_samples_have_the_mean_and_covariance_of_the_images() -> None:
    samples, images = made()
    moved = moments(AffineMap.between(samples, images, 1.0)(samples))
    np.testing.assert_allclose(moved.mean, moments(images).mean, atol=1e-3)
    np.testing.assert_allclose(moved.covariance, moments(images).covariance, rtol=1e-2, atol=2e-2)


def test_it_moves_samples_no_further_than_the_frechet_distance() -> None:
    """Which is the least squared distance at which Gaussians can be moved into each other."""
    samples, images = made()
    moved = AffineMap.between(samples, images, 1.0)(samples)
    least = frechet_distance(moments(samples), moments(images))
    assert float((moved - samples).square().sum(dim=1).mean()) == pytest.approx(least, rel=0.01)
    half = AffineMap.between(samples, images, 0.5)(samples)
    torch.testing.assert_close(half, (samples + moved) / 2, rtol=1e-3, atol=1e-3)


def test_what_samples_hardly_vary_in_is_stretched_no_more_than_twice() -> None:
    samples, images = made()
    samples[:, 0] *= 1e-3
    matrix = AffineMap.between(samples, images, 1.0).matrix
    assert torch.linalg.eigvalsh(matrix).max() == pytest.approx(2, rel=1e-4)


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> tuple[PriorModel, PriorModel]:
    """An untrained prior as it is, and the same with its samples matched."""
    task = made_prior(tmp_path_factory.mktemp("prior"), pictures=240)
    torch.manual_seed(0)
    settings = replace(SETTINGS, matched=1.0)
    task = replace(task, settings=settings)
    network = task.build().eval()
    plain = PriorModel(network, task.bank, settings, task.texts.spec, card={})
    return plain, matched_prior(task, network, {})


def captions(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    tokens, mask = torch.randn(count, 4, 12, generator=random), torch.ones(count, 4)
    return tokens, mask.bool(), torch.randn(count, 16, generator=random)


def test_samples_of_a_matched_prior_are_nearer_to_the_images(
    prior: tuple[PriorModel, PriorModel], tmp_path: Path
) -> None:
    images = scale_per_encoder(made_prior(tmp_path, pictures=240).spaced_captions(999).image, (16,))
    distances = [
        frechet_distance(moments(each.sample(*captions(200))), moments(images)) for each in prior
    ]
    assert distances[1] < 0.3 * distances[0]


def test_other_steps_guidance_and_samplers_are_not_matched(
    prior: tuple[PriorModel, PriorModel],
) -> None:
    plain, moved = prior
    some = captions(3)
    assert not torch.equal(moved.sample(*some), plain.sample(*some))
    for other in ({"num_steps": 2}, {"guidance": 2.0}, {"sampler": "ddim"}):
        assert torch.equal(moved.sample(*some, **other), plain.sample(*some, **other))


def test_the_map_is_saved_with_the_prior_and_part_of_its_digest(
    prior: tuple[PriorModel, PriorModel], tmp_path: Path
) -> None:
    plain, moved = prior
    moved.save(tmp_path / "prior")
    loaded = PriorModel.load(tmp_path / "prior")
    assert torch.equal(loaded.sample(*captions(3)), moved.sample(*captions(3)))
    assert loaded.digest == moved.digest != plain.digest


def test_a_prior_that_is_not_to_be_matched_stays_as_it_is(tmp_path: Path) -> None:
    task = made_prior(tmp_path)
    assert matched_prior(task, task.build().eval(), {}).matching is None
