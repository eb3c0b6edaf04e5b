"""How a start becomes a bank: the change of variables that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corgi_core.config import GaussianSettings
from corgi_core.experiments.prior_ablation.arms import (
    BASELINE,
    BASELINE_RAW,
    SHIFT_ONLY,
    Arm,
    bank_of,
    fitted_banks,
    scale_only,
    shifted,
)
from corgi_core.experiments.prior_ablation.measure import width_of
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.gaussians.stream import EmbeddingStream

BLOCKS = (2, 6)
POINTS = np.random.default_rng(0).normal(1.5, np.arange(1, 9) / 4, (400, 8)).astype(np.float32)
SETTINGS = GaussianSettings(points_per_gaussian=32)


def bank(start):
    points = EmbeddingStream.of_array(POINTS)
    return bank_of(start, fitted_banks(points, [Arm(start)], BLOCKS, SETTINGS, seed=0))


def test_the_baseline_is_the_standard_bank():
    standard = GaussianBank.standard(BLOCKS)
    assert torch.equal(bank(BASELINE).means, standard.means)
    assert torch.equal(bank(BASELINE).std, standard.std)


def test_the_raw_baseline_is_the_standard_normal_of_embeddings_of_norm_one():
    """z = √d_b · e in each block: u = z/√d_b are the embeddings of norm 1 themselves."""
    outputs = torch.randn(5, 8).split(list(BLOCKS), dim=1)
    unit = torch.cat([torch.nn.functional.normalize(block, dim=1) for block in outputs], dim=1)
    ours = unit * torch.tensor([2**0.5] * 2 + [6**0.5] * 6)
    c = torch.zeros(5, dtype=torch.long)
    torch.testing.assert_close(bank(BASELINE_RAW).gaussians(c).whiten(ours), unit)


def test_shift_and_scale_come_apart():
    both = bank(shifted(3.0))
    np.testing.assert_allclose(both.means[0], POINTS.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(both.std[0], 3 * POINTS.std(axis=0), rtol=1e-5)
    assert torch.equal(bank(SHIFT_ONLY).means, both.means)
    assert torch.equal(bank(SHIFT_ONLY).std, torch.ones(1, 8))
    assert torch.equal(bank(scale_only(3.0)).means, torch.zeros(1, 8))
    assert torch.equal(bank(scale_only(3.0)).std, both.std)


@pytest.mark.parametrize(("asked", "fitted"), [(1, 1), (5, 5), (12, 12), (1024, 12)])
def test_as_many_gaussians_as_the_data_bear(asked, fitted):
    assert bank(shifted(1.0, asked)).k == fitted


def test_the_width_of_a_start_is_in_the_embeddings_own_deviation():
    assert width_of(bank(shifted(2.0)), bank(shifted(1.0))) == pytest.approx(2, rel=1e-5)
    own = np.sqrt(POINTS.var(axis=0).mean())
    assert width_of(bank(BASELINE), bank(shifted(1.0))) == pytest.approx(1 / own, rel=1e-5)
