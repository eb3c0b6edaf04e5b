"""A stage is conditioned on the embedding in two ways, on the noise level and on captions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from corgi_core.config import StageSettings
from corgi_core.decoders.cascade.unet import LEVEL_FEATURES, Stage
from corgi_core.decoders.decoder import TextCond

WIDTH, N = 6, 2
COND = torch.ones(N, dtype=torch.bool)


def a_stage(
    attention_levels: int = 1, upsamples: bool = True, text_width: int | None = None
) -> Stage:
    torch.manual_seed(0)
    settings = StageSettings(
        size=8, channels=(8, 16), layers=1, attention_levels=attention_levels, noise_shift=0.0
    )
    return Stage(settings, WIDTH, 8, 16, text_width, upsamples).eval()


@torch.no_grad()
def predicted(stage: Stage, white: Tensor, cond_mask: Tensor = COND, **other: object) -> Tensor:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(1, 6 if stage.upsamples else 3, 8, 8, generator=random).repeat(N, 1, 1, 1)
    level = other.pop("level", torch.full((N,), 0.2))
    return stage(x, torch.tensor([300, 300]), level, white, cond_mask, **other)


@pytest.fixture
def white() -> Tensor:
    return torch.randn(N, WIDTH, generator=torch.Generator().manual_seed(2))


def ablated(stage: Stage, way: str) -> Stage:
    """The stage without one of the embedding's two ways."""
    layer = stage.to_vectors[0] if way == "vectors" else stage.unet.class_embedding.linear_1
    columns = slice(None) if way == "vectors" else slice(0, WIDTH)
    with torch.no_grad():
        layer.weight[:, columns] = 0
    return stage


def test_the_embedding_acts_through_vectors_and_through_the_timestep(white: Tensor) -> None:
    for way in ("vectors", "timestep"):
        first, second = predicted(ablated(a_stage(), way), white)
        assert (first - second).abs().max() > 1e-4, way
    neither = ablated(ablated(a_stage(), "vectors"), "timestep")
    first, second = predicted(neither, white)
    torch.testing.assert_close(first, second)


def test_without_attention_the_embedding_acts_through_the_timestep(white: Tensor) -> None:
    stage = a_stage(attention_levels=0)
    assert not [name for name, _ in stage.named_parameters() if "attn" in name]
    assert [name for name, _ in a_stage().named_parameters() if "attn" in name]
    first, second = predicted(stage, white)
    assert (first - second).abs().max() > 1e-4


def test_the_embedding_becomes_eight_vectors(white: Tensor) -> None:
    stage, conditions = a_stage(), []
    hook = stage.unet.register_forward_pre_hook(lambda _, args: conditions.append(args[2]))
    predicted(stage, white)
    hook.remove()
    assert conditions[0].shape == (N, 8, 16)


def test_a_dropped_embedding_has_no_effect_and_the_learned_one_has(white: Tensor) -> None:
    stage = a_stage()
    first, second = predicted(stage, white, ~COND)
    torch.testing.assert_close(first, second)
    torch.nn.init.normal_(stage.null_embedding)
    assert (predicted(stage, white, ~COND)[0] - first).abs().max() > 1e-4


def test_the_noise_level_conditions_upsampling_stages_only(white: Tensor) -> None:
    for upsamples in (True, False):
        stage = a_stage(upsamples=upsamples)
        level = torch.tensor([0.0, 0.5])
        first, second = predicted(stage, white[:1].repeat(N, 1), level=level)
        assert bool((first - second).abs().max() > 1e-5) is upsamples
    assert a_stage().unet.class_embedding.linear_1.in_features == WIDTH + LEVEL_FEATURES


def test_tokens_condition_where_the_attention_mask_is_true(white: Tensor) -> None:
    stage = a_stage(text_width=5)
    tokens = torch.randn(N, 4, 5, generator=torch.Generator().manual_seed(3))
    none, all_of_them = torch.zeros(N, 4, dtype=torch.bool), torch.ones(N, 4, dtype=torch.bool)
    without = predicted(stage, white)
    torch.testing.assert_close(predicted(stage, white, text=TextCond(tokens, none)), without)
    assert (
        predicted(stage, white, text=TextCond(tokens, all_of_them)) - without
    ).abs().max() > 1e-4
    some = all_of_them.clone()
    some[:, 2:] = False
    torch.testing.assert_close(
        predicted(stage, white, text=TextCond(tokens, some)),
        predicted(stage, white, text=TextCond(tokens[:, :2], some[:, :2])),
    )


def test_every_parameter_learns() -> None:
    """Else several workers would wait for gradients that never come."""
    for attention_levels, text_width in ((0, 5), (1, 5), (2, None)):
        stage = a_stage(attention_levels, text_width=text_width).train()
        text = None
        if text_width:
            text = TextCond(torch.randn(N, 4, text_width), torch.ones(N, 4, dtype=torch.bool))
        x, white = torch.randn(N, 6, 8, 8), torch.randn(N, WIDTH)
        stage(x, torch.tensor([1, 2]), torch.rand(N), white, COND, text).square().mean().backward()
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
    stage(x, torch.tensor([1, 2]), torch.rand(N), torch.randn(N, WIDTH), COND)
    assert not first
