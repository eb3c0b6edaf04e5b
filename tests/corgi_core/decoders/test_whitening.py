"""Whitened embeddings are centred, and as strong in every direction as faintness allows."""

from __future__ import annotations

import torch

from corgi_core.decoders import whitening as whitening_module
from corgi_core.decoders.whitening import MIN_VARIANCE, Whitening


def test_it_evens_out_strong_directions_and_leaves_faint_ones_faint() -> None:
    deviations = torch.tensor([30.0, 10.0, 10.0, 0.001])
    turn, _ = torch.linalg.qr(torch.randn(4, 4))
    z = torch.randn(4000, 4) * deviations @ turn + 7
    whitening = Whitening(4)
    whitening.fit(z)
    white = whitening(z)
    covariance = white.double().T.cov(correction=0)
    variances = z.double().T.cov(correction=0).trace() / 4
    expected = deviations.double().square() / (
        deviations.double().square() + MIN_VARIANCE * variances
    )
    assert torch.allclose(covariance.diag().sort().values, expected.sort().values, atol=0.05)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-3
    assert white.mean(dim=0).abs().max() < 1e-3


def test_embeddings_that_are_all_the_same_stay_finite() -> None:
    whitening = Whitening(4)
    whitening.fit(torch.ones(1, 4))
    assert whitening(torch.ones(2, 4)).isfinite().all()


def test_a_library_that_turns_eigenvectors_round_gives_the_same_matrix(monkeypatch) -> None:
    z = torch.randn(500, 6) @ torch.randn(6, 6)
    here, there, eigh = Whitening(6), Whitening(6), torch.linalg.eigh
    here.fit(z)

    def turned(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, vectors = eigh(matrix)
        return values, vectors * torch.tensor([1, -1, 1, -1, -1, 1])

    monkeypatch.setattr(torch.linalg, "eigh", turned)
    there.fit(z)
    assert torch.equal(here.matrix, there.matrix)


def test_batches_change_nothing(monkeypatch) -> None:
    z = torch.randn(1000, 5) * torch.arange(1, 6) + 100
    whole, parts = Whitening(5), Whitening(5)
    whole.fit(z)
    monkeypatch.setattr(whitening_module, "BATCH", 7)
    parts.fit(z)
    torch.testing.assert_close(parts.matrix, whole.matrix)
    torch.testing.assert_close(parts.centre, z.mean(dim=0))


def test_unfitted_it_changes_nothing() -> None:
    z = torch.randn(3, 4)
    torch.testing.assert_close(Whitening(4)(z), z)
