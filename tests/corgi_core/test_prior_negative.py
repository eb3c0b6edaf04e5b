"""A decoder whose guidance starts from the prior's embedding of the empty caption gets it."""

from __future__ import annotations

from dataclasses import replace

import torch

from corgi_core.config import StableDiffusionSettings, TrainingSettings
from corgi_core.decoders.stable_diffusion.decoder import StableDiffusionDecoder
from corgi_core.decoders.stable_diffusion.network import (
    StableDiffusionNetwork,
    StableDiffusionShape,
)
from corgi_core.pipeline import Generator, Sampling
from tests.helpers.tiny_diffusion import tiny_scheduler, tiny_unet, tiny_vae


def test_the_prior_says_what_nothing_is(generator: Generator) -> None:
    torch.manual_seed(0)
    unet, vae, width = tiny_unet(), tiny_vae(), sum(generator.encoder_dims)
    shape = StableDiffusionShape(
        width, dict(unet.config), dict(vae.config), dict(tiny_scheduler().config)
    )
    settings = StableDiffusionSettings(
        pretrained="", negative="prior", image_size=16, perturbed=0.0, min_cosine=0.7,
        cond_dropout=0.1, guidance=2.0, num_steps=2,
        training=TrainingSettings(steps=1, batch_size=1, learning_rate=1e-3),
    )  # fmt: skip
    decoder = StableDiffusionDecoder(
        StableDiffusionNetwork(shape, unet, vae).eval(), settings, generator.decoder.encoders, {}
    )
    tokens, mask = generator.tokens.encode([""])
    nothing = generator.prior.sample(tokens, mask, generator.clip.encode_texts([""]))[0]
    z = torch.randn(2, width)
    told = replace(generator, decoder=decoder)
    found = told.draw(z, Sampling(seed=3))
    assert torch.equal(found, decoder.with_negative(nothing).decode(z, seed=3))
    assert not torch.equal(found, decoder.decode(z, seed=3))
    kept = replace(decoder.settings, negative="mean")
    as_it_was = StableDiffusionDecoder(decoder.network, kept, decoder.encoders, {})
    assert replace(generator, decoder=as_it_was).decoder is as_it_was
