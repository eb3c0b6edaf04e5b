"""Whitened embeddings are centred, and as strong in every direction as faintness allows."""

from __future__ import annotations

import torch

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


def test_unfitted_it_changes_nothing() -> None:
    z = torch.randn(3, 4)
    torch.testing.assert_close(Whitening(4)(z), z)
