"""The bank of Gaussians: fitting, choosing, the change of variables, and what it refuses."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.gaussians.diagnostics import effective_rank, modality_gap
from corgi_core.gaussians.fit import fit_bank


def three_cones(per_cone=(400, 300, 200), d=8, seed=0):
    """Points in three narrow cones, their centres and which cone each is in."""
    random = np.random.default_rng(seed)
    centres = np.linalg.qr(random.normal(size=(d, d)))[0][:3] * np.sqrt(d)
    labels = np.repeat(np.arange(3), per_cone)
    points = centres[labels] + 0.15 * random.normal(size=(len(labels), d))
    return points.astype(np.float32), centres, labels


def test_one_gaussian_is_the_mean_and_deviation_of_all_points():
    points, _, _ = three_cones()
    bank = fit_bank(points, k=1, blocks=(8,), kappa=2.0)
    np.testing.assert_allclose(bank.means[0].numpy(), points.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bank.deviations[0].numpy(), 2 * points.std(axis=0), rtol=1e-5)
    assert bank.sizes.tolist() == [len(points)]


def test_clusters_are_found_as_sklearn_finds_them():
    points, centres, labels = three_cones()
    bank = fit_bank(points, k=3, blocks=(8,))
    order = np.argmax(centres @ bank.means.numpy().T, axis=1)
    assert sorted(order) == [0, 1, 2]
    assert bank.sizes[order].tolist() == [400, 300, 200]
    theirs = KMeans(3, n_init=3, random_state=0).fit(points)
    for i, j in enumerate(np.argmax(centres @ theirs.cluster_centers_.T, axis=1)):
        members = points[theirs.labels_ == j]
        assert (labels[theirs.labels_ == j] == i).all()
        np.testing.assert_allclose(bank.means[order[i]].numpy(), members.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(
            bank.deviations[order[i]].numpy(), members.std(axis=0), rtol=1e-4
        )


def test_no_point_is_left_out_by_subsampling():
    points = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)
    assert fit_bank(points, k=2, blocks=(4,)).sizes.sum() == 3000  # faiss alone would take 512


def test_a_small_cluster_borrows_from_the_pooled_deviation():
    points, _, labels = three_cones(per_cone=(100, 10, 0))
    bank = fit_bank(points, k=2, blocks=(8,))
    small, large = int(bank.sizes.argmin()), int(bank.sizes.argmax())
    assert bank.sizes[[small, large]].tolist() == [10, 100]
    own, other = points[labels == 1].var(axis=0), points[labels == 0].var(axis=0)
    pooled = (10 * own + 100 * other) / 110
    expected = np.sqrt(10 / 32 * own + 22 / 32 * pooled)
    np.testing.assert_allclose(bank.deviations[small].numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose(bank.deviations[large].numpy(), np.sqrt(other), rtol=1e-4)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 5))
def test_unwhiten_inverts_whiten(seed, k):
    random = torch.Generator().manual_seed(seed)
    bank = GaussianBank(
        torch.randn(k, 6, generator=random), 0.1 + torch.rand(k, 6, generator=random),
        torch.ones(k), blocks=(2, 4), kappa=1.0,
    )  # fmt: skip
    z = torch.randn(9, 6, generator=random)
    c = torch.randint(k, (9,), generator=random)
    torch.testing.assert_close(bank.unwhiten(bank.whiten(z, c), c), z, rtol=1e-4, atol=1e-5)


def test_the_standard_bank_changes_nothing():
    bank = GaussianBank.standard((3, 5))
    z = torch.randn(4, 8)
    c = bank.choose(torch.randn(4, 8))
    assert torch.equal(bank.whiten(z, c), z)


def test_choice_is_the_largest_blockwise_cosine():
    bank = GaussianBank(
        torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 1.0]]),
        torch.ones(3, 4), torch.ones(3), blocks=(2, 2), kappa=1.0,
    )  # fmt: skip
    # First block points to 0 weakly, the second to 0 and 2; lengths must not matter.
    text = torch.tensor([[0.1, 0.01, 0.0, 5.0], [0.0, 0.1, 9.0, 0.0], [-7.0, 0.0, 0.0, 0.1]])
    assert bank.choose(text).tolist() == [0, 1, 2]


def test_a_bank_survives_saving(tmp_path):
    points, _, _ = three_cones()
    bank = fit_bank(points, k=3, blocks=(3, 5), kappa=1.5)
    bank.save(UPath(tmp_path / "bank"))
    again = GaussianBank.load(UPath(tmp_path / "bank"))
    assert again.digest == bank.digest
    assert (again.blocks, again.kappa) == ((3, 5), 1.5)
    assert torch.equal(again.means, bank.means)
    assert torch.equal(again.deviations, bank.deviations)


def test_a_tampered_bank_is_refused(tmp_path):
    bank = GaussianBank.standard((4,))
    bank.save(tmp_path / "bank")
    weights = tmp_path / "bank" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CorgiError, match="digest"):
        GaussianBank.load(tmp_path / "bank")


@pytest.mark.parametrize(
    ("points", "k", "message"),
    [
        (np.zeros((5, 4), np.float32), 6, "6 Gaussians cannot be fitted to 5 embeddings"),
        (np.zeros((5, 4), np.float32), 0, "between 1 and 5"),
        (np.zeros((5, 3), np.float32), 1, "do not fit encoders of widths"),
        (np.full((5, 4), np.nan, np.float32), 1, "not finite"),
    ],
)
def test_bad_input_is_refused(points, k, message):
    with pytest.raises(CorgiError, match=message):
        fit_bank(points, k, blocks=(4,))


def test_effective_rank_of_known_spectra():
    random = np.random.default_rng(0)
    ball = random.normal(size=(20_000, 6))
    assert effective_rank(ball) == pytest.approx(6, abs=0.05)
    line = random.normal(size=(500, 1)) * np.ones((1, 6))
    assert effective_rank(line) == pytest.approx(1, abs=1e-6)


def test_modality_gap_by_hand():
    images = np.array([[2.0, 0.0], [5.0, 0.0]])
    texts = np.array([[0.0, 1.0]])
    assert modality_gap(images, texts, (2,)) == pytest.approx(np.sqrt(2))
    assert modality_gap(images, images * 3, (2,)) == pytest.approx(0)
