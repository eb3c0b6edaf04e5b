"""KID and CMMD against torchmetrics, closed forms, and what no bias means."""

import numpy as np
import pytest
import torch

from corgi_core.metrics.cmmd import cmmd
from corgi_core.metrics.kid import kid
from corgi_core.metrics.mmd import squared_mmd


def test_kid_agrees_with_torchmetrics():
    from torchmetrics.image.kid import poly_mmd

    random = np.random.default_rng(0)
    real, generated = random.normal(size=(70, 12)), random.normal(size=(70, 12)) * 1.2 + 0.1
    theirs = poly_mmd(torch.from_numpy(real), torch.from_numpy(generated)).item()
    assert kid(real, generated).value == pytest.approx(theirs, rel=1e-10)
    single = kid(real.astype(np.float32), generated.astype(np.float32))
    assert single.value == pytest.approx(theirs, rel=1e-6)
    assert np.isnan(single.error)


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
