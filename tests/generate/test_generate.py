"""From a prompt to pictures: real parts, tiny and untrained, that must fit each other."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from corgi_core.decoders.model import DecoderModel
from corgi_core.decoders.network import DecoderNetwork, DecoderShape
from corgi_core.encoders.text import TokenEncoder, mean_pooled
from corgi_core.encoders.text_tower import ClipTextTower
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.generate import LONGEST_PROMPT, MOST_IMAGES, TextToImage, check_prompt
from corgi_core.presets import preset_named
from corgi_core.prior.model import PriorModel
from corgi_core.prior.network import PriorNetwork, PriorShape

D, TOKENS, CLIP = 8, 12, "a-clip"
ENCODERS = {"encoder": CLIP, "names": ["tiny"], "blocks": [D], "width": D}


class Tower(nn.Module):
    """MiniLM, pooled and projected to D."""

    def __init__(self, tokens: TokenEncoder) -> None:
        super().__init__()
        self.tokens = tokens
        self.projection = nn.Linear(tokens.width, D).requires_grad_(False)

    def encode_texts(self, captions: list[str]) -> torch.Tensor:
        return self.projection(mean_pooled(*self.tokens.encode(captions)))


def random(network: nn.Module) -> nn.Module:
    """What starts at zero would prove nothing."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    preset = preset_named("emoji-small")
    tokens = TokenEncoder.load("minilm", TOKENS)
    prior = random(
        PriorNetwork(PriorShape(D, tokens.width, TOKENS, gaussians=1, width=32, layers=1, heads=2))
    )
    settings = replace(preset.decoder, image_size=16, components=40, width=32, vector_width=8)
    known = {field.name for field in fields(settings)}
    shape = {f.name: getattr(settings, f.name) for f in fields(DecoderShape) if f.name in known}
    decoder = random(DecoderNetwork(DecoderShape(embedding_width=D, **shape)))
    return {
        "clip": ClipTextTower([Tower(tokens)], [D], CLIP),
        "tokens": tokens,
        "prior": PriorModel(prior, GaussianBank.standard([D]), preset.prior, ENCODERS, card={}),
        "decoder": DecoderModel(decoder, settings, ENCODERS, card={}),
    }


def test_a_prompt_becomes_pictures_that_depend_on_prompt_seed_and_number(parts):
    model = TextToImage(**parts)
    pictures = model.generate("a red apple", 3, seed=5)
    assert pictures.shape == (3, 3, 16, 16)
    assert pictures.dtype == torch.float32
    assert 0 <= pictures.min() < pictures.max() <= 1
    assert torch.equal(pictures, model.generate("a red apple", 3, seed=5))
    torch.testing.assert_close(pictures[:1], model.generate("a red apple", seed=5))
    for other in (pictures[1], model.generate("a red apple", seed=6)[0],
                  model.generate("a green car", seed=5)[0]):  # fmt: skip
        assert (pictures[0] - other).abs().max() > 1e-3


@pytest.mark.parametrize("part", ["prior", "decoder"])
def test_parts_of_different_clip_encoders_are_refused(parts, part):
    model = parts[part]
    stranger = type(model)(
        model.network, *((model.bank,) if part == "prior" else ()), model.settings,
        {**ENCODERS, "encoder": "another-clip"}, model.card,
    )  # fmt: skip
    with pytest.raises(CorgiError, match=f"{part}: another-clip"):
        TextToImage(**{**parts, part: stranger})


@pytest.mark.parametrize("prompt", ["", " \n", "x" * (LONGEST_PROMPT + 1)])
def test_a_prompt_has_limits(parts, prompt):
    with pytest.raises(CorgiError, match="prompt"):
        TextToImage(**parts).generate(prompt)


def test_a_prompt_may_be_as_long_as_the_limit():
    check_prompt("x" * LONGEST_PROMPT)


@pytest.mark.parametrize("count", [-1, 0, MOST_IMAGES + 1])
def test_the_number_of_pictures_has_limits(parts, count):
    with pytest.raises(CorgiError, match=f"{count} pictures"):
        TextToImage(**parts).generate("a red apple", count)


@pytest.mark.parametrize("guidance", [float("nan"), float("inf")])
def test_guidance_is_finite(parts, guidance):
    with pytest.raises(CorgiError, match="guidance"):
        TextToImage(**parts).generate("a red apple", guidance=guidance)
