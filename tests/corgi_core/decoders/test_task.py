"""What every decoder's training shares."""

from __future__ import annotations

import torch

from corgi_core.decoders.task import perturbed_embeddings
from corgi_core.encoders.similarity import cosine_by_encoder, scale_per_encoder


def test_a_perturbed_embeddings_is_at_the_cosine_asked_for() -> None:
    encoder_dims = (300, 700)
    z = scale_per_encoder(torch.randn(400, 1000), encoder_dims)
    cosine = torch.linspace(0, 1, 400)
    perturbed = perturbed_embeddings(z, cosine, torch.randn(400, 1000), encoder_dims)
    torch.testing.assert_close(perturbed, scale_per_encoder(perturbed, encoder_dims))
    found = cosine_by_encoder(perturbed, z, encoder_dims)
    assert (found - cosine.unsqueeze(1)).abs().mean() < 0.04
    torch.testing.assert_close(perturbed[-1], z[-1])
