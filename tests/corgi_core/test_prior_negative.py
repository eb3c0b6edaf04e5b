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
from corgi_core.pipeline import CorgiPipeline
from tests.helpers.tiny_diffusion import tiny_scheduler, tiny_unet, tiny_vae


def test_the_prior_says_what_nothing_is(pipeline: CorgiPipeline) -> None:
    torch.manual_seed(0)
    unet, vae, width = tiny_unet(), tiny_vae(), sum(pipeline.encoder_dims)
    shape = StableDiffusionShape(
        width, dict(unet.config), dict(vae.config), dict(tiny_scheduler().config)
    )
    settings = StableDiffusionSettings(
        pretrained="", negative="prior", image_size=16, perturbed=0.0, min_cosine=0.7,
        cond_dropout=0.1, guidance=2.0, num_steps=2,
        training=TrainingSettings(steps=1, batch_size=1, learning_rate=1e-3),
    )  # fmt: skip
    decoder = StableDiffusionDecoder(
        StableDiffusionNetwork(shape, unet, vae).eval(), settings, pipeline.decoder.encoders, {}
    )
    tokens, mask = pipeline.tokens.encode([""])
    nothing = pipeline.prior.sample(tokens, mask, pipeline.clip.encode_texts([""]))[0]
    z = torch.randn(2, width)
    guided = replace(pipeline, decoder=decoder)
    found = guided.decode(z, seed=3, output_type="pt")
    assert torch.equal(found, decoder.with_negative(nothing).decode(z, seed=3))
    assert not torch.equal(found, decoder.decode(z, seed=3))
    mean = replace(decoder.settings, negative="mean")
    unguided = StableDiffusionDecoder(decoder.network, mean, decoder.encoders, {})
    assert replace(pipeline, decoder=unguided).decoder is unguided
