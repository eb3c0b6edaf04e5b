"""The network whitens embeddings by the training images' statistics."""

from __future__ import annotations

import torch

from corgi_core.decoders.network import FAINTEST, DecoderNetwork, DecoderShape


def network(width: int) -> DecoderNetwork:
    return DecoderNetwork(
        DecoderShape(width, image_size=8, patch=2, channels=(16, 32), attention=(False, True),
                     layers_per_block=1, vectors=8, painter_width=32, painter_layers=1)
    )  # fmt: skip


def test_whitening_evens_out_strong_directions_and_leaves_faint_ones_faint() -> None:
    deviations = torch.tensor([30.0, 10.0, 10.0, 0.001])
    turn, _ = torch.linalg.qr(torch.randn(4, 4))
    z = torch.randn(4000, 4) * deviations @ turn + 7
    decoder = network(4)
    decoder.whiten_for(z)
    white = (z - decoder.centre) @ decoder.whitening
    covariance = white.double().T.cov(correction=0)
    variances = z.double().T.cov(correction=0).trace() / 4
    expected = deviations.double().square() / (deviations.double().square() + FAINTEST * variances)
    assert torch.allclose(covariance.diag().sort().values, expected.sort().values, atol=0.05)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-3


def test_embeddings_that_are_all_the_same_stay_finite() -> None:
    decoder = network(4)
    decoder.whiten_for(torch.ones(1, 4))
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0, 999])
    drawn, painted = decoder(x, t, torch.ones(2, 4), torch.tensor([False, True]))
    assert drawn.shape == painted.shape == (2, 3, 8, 8)
    assert drawn.isfinite().all()


def test_an_untrained_unet_adds_nothing_to_the_painted_picture() -> None:
    decoder = network(4)
    x, t, z = torch.randn(2, 3, 8, 8), torch.tensor([0, 999]), torch.randn(5, 4)
    drawn, painted = decoder(x, t, z, torch.zeros(2, dtype=torch.bool))
    assert painted.shape == (5, 3, 8, 8)
    torch.testing.assert_close(drawn, painted[:2])


def test_denoising_teaches_the_unet_and_not_the_painter() -> None:
    decoder = network(4)
    torch.nn.init.normal_(decoder.unet.conv_out.weight)
    x, t, z = torch.randn(2, 3, 8, 8), torch.tensor([0, 999]), torch.randn(2, 4)
    drawn, _ = decoder(x, t, z, torch.zeros(2, dtype=torch.bool))
    drawn.square().mean().backward()
    assert decoder.paint.weight.grad is None
    assert decoder.unet.conv_in.weight.grad.abs().max() > 0
