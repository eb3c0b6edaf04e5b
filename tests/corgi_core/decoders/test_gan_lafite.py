"""Lafite: the GAN on pseudo text embeddings."""

from __future__ import annotations

from pathlib import Path

import torch

from corgi_core.decoders.gan.decoder import GanDecoder, LafiteDecoder
from corgi_core.decoders.gan.lafite import LafiteTask, pseudo_text
from corgi_core.decoders.registry import load_decoder
from corgi_core.encoders.similarity import cosine_by_encoder, scale_per_encoder
from corgi_core.training.loop import train
from corgi_core.training.randomness import StepRandom
from tests.helpers.gan_shapes import TINY_LAFITE, a_gan_task


def test_a_pseudo_text_is_at_the_distance_xi_in_every_block() -> None:
    torch.manual_seed(0)
    encoder_dims = (300, 700)
    z = scale_per_encoder(torch.randn(400, 1000), encoder_dims)
    noise = torch.randn(400, 1000) * torch.rand(400, 1)  # of any length
    for xi in (0.1, 2.0):
        text = pseudo_text(z, xi, noise, encoder_dims)
        torch.testing.assert_close(text, scale_per_encoder(text, encoder_dims))
        first, second = z[:, :300], noise[:, :300]
        by_definition = first + xi * first.norm(dim=1, keepdim=True) * second / second.norm(
            dim=1, keepdim=True
        )
        cosine = torch.cosine_similarity(text[:, :300], by_definition)
        torch.testing.assert_close(cosine, torch.ones(400))
        found = cosine_by_encoder(text, z, encoder_dims)
        assert (found - (1 + xi**2) ** -0.5).abs().mean() < 0.04  # random directions are orthogonal
    torch.testing.assert_close(pseudo_text(z, 0.0, noise, encoder_dims), z)


def test_lafite_is_conditioned_on_pseudo_texts(tmp_path: Path) -> None:
    task = a_gan_task(tmp_path, LafiteTask, TINY_LAFITE)
    z = task.spaced_embeddings
    cond = task.condition(z, StepRandom(0, 0, len(z)))
    noise = StepRandom(0, 0, len(z)).normal(z.shape[1])
    assert torch.equal(cond, pseudo_text(z, TINY_LAFITE.perturbation, noise, task.encoder_dims))
    assert (cond - z).abs().max() > 0.01


def test_a_trained_lafite_is_saved_and_takes_texts(tmp_path: Path) -> None:
    task = a_gan_task(tmp_path, LafiteTask, TINY_LAFITE)
    result = train(task, TINY_LAFITE.training, tmp_path / "run")
    lafite = task.decoder(result.model, {})
    lafite.save(tmp_path / "decoder")
    loaded = load_decoder(tmp_path / "decoder")
    assert isinstance(loaded, LafiteDecoder)
    assert (loaded.input_kind, GanDecoder.input_kind) == ("text", "image")
    assert loaded.settings == TINY_LAFITE
    z = task.spaced_embeddings
    torch.testing.assert_close(loaded.decode(z), lafite.decode(z), atol=1e-5, rtol=0)
