"""KID and CMMD against torchmetrics, closed forms, and what no bias means."""

import numpy as np
import pytest
import torch

from corgi_core.metrics.cmmd import cmmd
from corgi_core.metrics.kid import kid
from corgi_core.metrics.mmd import squared_mmd


@pytest.mark.parametrize("count", [70, 64])
def test_kid_agrees_with_torchmetrics_kernel(count):
    """Sets of one size may be pairs, so that row i is not compared with row i."""
    from torchmetrics.image.kid import poly_kernel

    random = np.random.default_rng(0)
    real, generated = random.normal(size=(70, 12)), random.normal(size=(count, 12)) * 1.2 + 0.1
    x, y = torch.from_numpy(real), torch.from_numpy(generated)
    within, between = [], poly_kernel(x, y).numpy()
    for rows in (x, y):
        values = poly_kernel(rows, rows).numpy()
        within.append(values[~np.eye(len(rows), dtype=bool)].mean())
    left = between[~np.eye(70, dtype=bool)] if count == 70 else between
    theirs = sum(within) - 2 * left.mean()
    assert kid(real, generated).value == pytest.approx(theirs, rel=1e-10)
    single = kid(real.astype(np.float32), generated.astype(np.float32))
    assert single.value == pytest.approx(theirs, rel=1e-6)
    assert np.isnan(single.error)


@pytest.mark.parametrize("part", [1000, 20])
@pytest.mark.parametrize("metric", [kid, cmmd])
def test_pictures_that_are_pairs_with_the_images_have_no_bias(monkeypatch, metric, part):
    """Each picture is its image with some noise turned: both sets have one distribution."""
    monkeypatch.setattr("corgi_core.metrics.mmd.PART", part)
    random = np.random.default_rng(3)
    images = random.normal(size=(60, 40, 6))
    pictures = 0.95 * images + (1 - 0.95**2) ** 0.5 * random.normal(size=images.shape)
    values = np.array([metric(a, b).value for a, b in zip(images, pictures, strict=True)])
    assert abs(values.mean()) < 4 * values.std() / 60**0.5
    assert metric(images[0], images[0]).value == pytest.approx(0, abs=1e-10)


def test_cmmd_of_two_directions_has_a_closed_form():
    """All pairs within a set agree; between the sets the squared distance is 2 after scaling."""
    real, generated = np.array([[3.0, 0.0]] * 4), np.array([[0.0, 0.5]] * 3)
    assert cmmd(real, generated).value == pytest.approx(1000 * (2 - 2 * np.exp(-2 / 200)))


def test_the_linear_kernel_is_the_distance_of_the_means_in_parts_too(monkeypatch):
    """Its expectation is known, so many parts must come as near to it as their error says."""
    monkeypatch.setattr("corgi_core.metrics.mmd.PART", 20)
    random = np.random.default_rng(1)
    found = [
        squared_mmd(random.normal(size=(200, 3)), random.normal(size=(170, 3)) + 0.5,
                    lambda a, b: a @ b.T)
        for _ in range(60)
    ]  # fmt: skip
    values, errors = np.array(found).T
    assert values.mean() == pytest.approx(3 * 0.5**2, abs=4 * values.std() / 60**0.5)
    assert errors.mean() == pytest.approx(values.std(), rel=0.4)


def test_two_samples_of_one_distribution_are_0_apart_on_average_and_below_it_at_times():
    random = np.random.default_rng(2)
    samples = random.normal(size=(80, 2, 30, 8))
    values = np.array([kid(a, b).value for a, b in samples])
    assert abs(values.mean()) < 4 * values.std() / 80**0.5
    assert values.min() < 0 < values.max()
