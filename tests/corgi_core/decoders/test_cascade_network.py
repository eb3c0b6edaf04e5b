"""A stage hears the embedding in two ways, the level of the condition's noise, and the words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from corgi_core.config import StageSettings
from corgi_core.decoders.cascade.unet import LEVEL_FEATURES, Stage
from corgi_core.decoders.decoder import Text

WIDTH, N = 6, 2
SHOWN = torch.zeros(N, dtype=torch.bool)


def a_stage(
    attention_levels: int = 1, conditioned: bool = True, text_width: int | None = None
) -> Stage:
    torch.manual_seed(0)
    settings = StageSettings(
        size=8, channels=(8, 16), layers=1, attention_levels=attention_levels, noise_shift=0.0
    )
    return Stage(settings, WIDTH, 8, 16, text_width, conditioned).eval()


@torch.no_grad()
def told(stage: Stage, white: Tensor, dropped: Tensor = SHOWN, **other: object) -> Tensor:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(1, 6 if stage.conditioned else 3, 8, 8, generator=random).repeat(N, 1, 1, 1)
    level = other.pop("level", torch.full((N,), 0.2))
    return stage(x, torch.tensor([300, 300]), level, white, dropped, **other)


@pytest.fixture
def white() -> Tensor:
    return torch.randn(N, WIDTH, generator=torch.Generator().manual_seed(2))


def silenced(stage: Stage, way: str) -> Stage:
    """The stage with one of the embedding's two ways cut."""
    layer = stage.to_vectors[0] if way == "vectors" else stage.unet.class_embedding.linear_1
    columns = slice(None) if way == "vectors" else slice(0, WIDTH)
    with torch.no_grad():
        layer.weight[:, columns] = 0
    return stage


def test_the_embedding_is_heard_through_vectors_and_beside_the_timestep(white: Tensor) -> None:
    for way in ("vectors", "timestep"):
        first, second = told(silenced(a_stage(), way), white)
        assert (first - second).abs().max() > 1e-4, way
    deaf = silenced(silenced(a_stage(), "vectors"), "timestep")
    first, second = told(deaf, white)
    torch.testing.assert_close(first, second)


def test_a_stage_without_attention_has_none_and_hears_beside_the_timestep(white: Tensor) -> None:
    stage = a_stage(attention_levels=0)
    assert not [name for name, _ in stage.named_parameters() if "attn" in name]
    assert [name for name, _ in a_stage().named_parameters() if "attn" in name]
    first, second = told(stage, white)
    assert (first - second).abs().max() > 1e-4


def test_the_embedding_becomes_eight_vectors(white: Tensor) -> None:
    stage, seen = a_stage(), []
    hook = stage.unet.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    told(stage, white)
    hook.remove()
    assert seen[0].shape == (N, 8, 16)


def test_a_hidden_embedding_is_not_heard_and_the_learned_one_is(white: Tensor) -> None:
    stage = a_stage()
    first, second = told(stage, white, torch.tensor([True, True]))
    torch.testing.assert_close(first, second)
    torch.nn.init.normal_(stage.nothing)
    assert (told(stage, white, torch.tensor([True, True]))[0] - first).abs().max() > 1e-4


def test_the_level_is_heard_by_a_conditioned_stage_alone(white: Tensor) -> None:
    for conditioned in (True, False):
        stage = a_stage(conditioned=conditioned)
        level = torch.tensor([0.0, 0.5])
        first, second = told(stage, white[:1].repeat(N, 1), level=level)
        assert bool((first - second).abs().max() > 1e-5) is conditioned
    assert a_stage().unet.class_embedding.linear_1.in_features == WIDTH + LEVEL_FEATURES


def test_words_are_heard_where_they_are_there(white: Tensor) -> None:
    stage = a_stage(text_width=5)
    tokens = torch.randn(N, 4, 5, generator=torch.Generator().manual_seed(3))
    none, all_of_them = torch.zeros(N, 4, dtype=torch.bool), torch.ones(N, 4, dtype=torch.bool)
    silent = told(stage, white)
    torch.testing.assert_close(told(stage, white, text=Text(tokens, none)), silent)
    assert (told(stage, white, text=Text(tokens, all_of_them)) - silent).abs().max() > 1e-4
    some = all_of_them.clone()
    some[:, 2:] = False
    torch.testing.assert_close(
        told(stage, white, text=Text(tokens, some)),
        told(stage, white, text=Text(tokens[:, :2], some[:, :2])),
    )


def test_every_parameter_learns() -> None:
    """Else several workers would wait for gradients that never come."""
    for attention_levels, text_width in ((0, 5), (1, 5), (2, None)):
        stage = a_stage(attention_levels, text_width=text_width).train()
        text = None
        if text_width:
            text = Text(torch.randn(N, 4, text_width), torch.ones(N, 4, dtype=torch.bool))
        x, white = torch.randn(N, 6, 8, 8), torch.randn(N, WIDTH)
        stage(x, torch.tensor([1, 2]), torch.rand(N), white, SHOWN, text).square().mean().backward()
        without = [name for name, p in stage.named_parameters() if p.grad is None]
        assert not without


def test_convolutions_have_their_channels_last_and_get_theirs_so() -> None:
    """Also those that diffusers' blocks would hand channels first, in training alone."""
    stage, first = a_stage(attention_levels=0).train(), []

    def look(name: str, inputs: tuple[Tensor, ...]) -> None:
        if not inputs[0].is_contiguous(memory_format=torch.channels_last):
            first.append(name)

    for name, module in stage.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last), name
            module.register_forward_pre_hook(lambda _, inputs, name=name: look(name, inputs))
    shortcuts = [name for name, _ in stage.named_modules() if name.endswith("conv_shortcut")]
    assert shortcuts
    assert stage.training
    x = torch.randn(N, 6, 8, 8)
    stage(x, torch.tensor([1, 2]), torch.rand(N), torch.randn(N, WIDTH), SHOWN)
    assert not first
