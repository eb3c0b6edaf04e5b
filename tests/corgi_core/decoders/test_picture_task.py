"""What every decoder's training shares."""

from __future__ import annotations

import torch

from corgi_core.decoders.picture_task import blurred_embedding
from corgi_core.encoders.similarity import cosine_by_encoder, scale_per_encoder


def test_a_blurred_embedding_is_at_the_cosine_asked_for() -> None:
    encoder_dims = (300, 700)
    z = scale_per_encoder(torch.randn(400, 1000), encoder_dims)
    cosine = torch.linspace(0, 1, 400)
    blurred = blurred_embedding(z, cosine, torch.randn(400, 1000), encoder_dims)
    torch.testing.assert_close(blurred, scale_per_encoder(blurred, encoder_dims))
    found = cosine_by_encoder(blurred, z, encoder_dims)
    assert (found - cosine.unsqueeze(1)).abs().mean() < 0.04
    torch.testing.assert_close(blurred[-1], z[-1])
