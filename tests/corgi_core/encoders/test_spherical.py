"""Ways on the sphere against closed forms: ends, speed, norms, and blocks that do not mix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from corgi_core.encoders.similarity import cosine_by_encoder, scale_per_encoder
from corgi_core.encoders.spherical import interpolation, slerp, text_difference
from corgi_core.errors import CorgiError

BLOCKS = (5, 3, 8)
seeds = st.integers(0, 2**32)
weights = st.floats(0, 1)


def embeddings(seed: int, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    samples = torch.randn(count, sum(BLOCKS), generator=torch.Generator().manual_seed(seed))
    return scale_per_encoder(samples.to(dtype), BLOCKS)


def angles(a: Tensor, b: Tensor) -> Tensor:
    """Between the blocks of a and b [..., d], in radians: [..., B]."""
    return cosine_by_encoder(a, b, BLOCKS).clamp(-1, 1).acos()


def norms(z: Tensor) -> list[list[float]]:
    return [block.norm(dim=-1).tolist() for block in z.split(list(BLOCKS), dim=-1)]


@given(seeds)
def test_a_way_begins_and_ends_where_it_should(seed):
    a, b = embeddings(seed, 2)
    torch.testing.assert_close(slerp(a, b, 0.0, BLOCKS), a)
    torch.testing.assert_close(slerp(a, b, 1.0, BLOCKS), b)
    points = interpolation(a, b, 5, BLOCKS)
    torch.testing.assert_close(points[[0, -1]], torch.stack([a, b]))


@given(seeds, weights)
def test_every_block_is_shoemakes_formula(seed, weight):
    a, b = embeddings(seed, 2)
    found = slerp(a, b, weight, BLOCKS).split(list(BLOCKS))
    for x, y, z in zip(a.split(list(BLOCKS)), b.split(list(BLOCKS)), found, strict=True):
        x, y = x.numpy(), y.numpy()
        theta = np.arccos(x @ y / len(x))
        expected = (np.sin((1 - weight) * theta) * x + np.sin(weight * theta) * y) / np.sin(theta)
        np.testing.assert_allclose(z, expected, atol=1e-9)


@given(seeds, weights)
def test_a_block_turns_at_constant_speed(seed, weight):
    a, b = embeddings(seed, 2)
    turned = angles(a, slerp(a, b, weight, BLOCKS))
    torch.testing.assert_close(turned, weight * angles(a, b), atol=1e-6, rtol=1e-6)


@given(seeds, weights)
def test_norms_are_the_roots_of_the_widths_whatever_they_were(seed, weight):
    a, b = embeddings(seed, 2)
    between = slerp(7 * a, b / 3, weight, BLOCKS)
    torch.testing.assert_close(between, slerp(a, b, weight, BLOCKS))
    np.testing.assert_allclose(norms(between), [math.sqrt(width) for width in BLOCKS])


@given(seeds, weights)
def test_a_block_knows_nothing_of_the_others(seed, weight):
    a, b, other = embeddings(seed, 3)
    end = torch.cat([b[: BLOCKS[0]], other[BLOCKS[0] :]])
    first = slerp(a, b, weight, BLOCKS)[: BLOCKS[0]]
    torch.testing.assert_close(slerp(a, end, weight, BLOCKS)[: BLOCKS[0]], first)
    torch.testing.assert_close(slerp(a[: BLOCKS[0]], b[: BLOCKS[0]], weight, BLOCKS[:1]), first)


@given(seeds, weights)
def test_there_and_back_is_the_same_way(seed, weight):
    a, b = embeddings(seed, 2)
    torch.testing.assert_close(
        slerp(a, b, weight, BLOCKS), slerp(b, a, 1 - weight, BLOCKS), atol=1e-6, rtol=1e-6
    )


@given(seeds, st.floats(0, 1e-3), weights)
def test_near_neighbours_in_float32_are_between_each_other(seed, distance, weight):
    a, other = embeddings(seed, 2, torch.float32)
    b = scale_per_encoder(a + distance * other, BLOCKS)
    between = slerp(a, b, weight, BLOCKS)
    assert between.dtype == torch.float32
    straight = scale_per_encoder((1 - weight) * a + weight * b, BLOCKS)
    torch.testing.assert_close(between, straight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(slerp(a, a, weight, BLOCKS), a)


def test_weights_broadcast_against_rows():
    a, b = embeddings(0, 4), embeddings(1, 4)
    weight = torch.tensor([0.0, 0.25, 0.5, 1.0])
    rows = slerp(a, b, weight, BLOCKS)
    for row in range(4):
        torch.testing.assert_close(rows[row], slerp(a[row], b[row], float(weight[row]), BLOCKS))
    torch.testing.assert_close(slerp(a[0], b, 0.5, BLOCKS)[2], slerp(a[0], b[2], 0.5, BLOCKS))


@given(seeds)
def test_a_text_difference_is_the_difference_of_directions(seed):
    before, after = embeddings(seed, 2)
    direction = text_difference(before, 5 * after, BLOCKS)
    parts = zip(*(z.split(list(BLOCKS)) for z in (before, after, direction)), strict=True)
    for x, y, found in parts:
        step = y / y.norm() - x / x.norm()
        torch.testing.assert_close(found, step / step.norm() * math.sqrt(len(x)))
    torch.testing.assert_close(text_difference(after, before, BLOCKS), -direction)


@given(seeds)
def test_turning_towards_a_difference_brings_the_image_nearer_to_the_second_caption(seed):
    """The angle to the difference shrinks in proportion, and the order of the captions matters."""
    image, before, after = embeddings(seed, 3)
    direction = text_difference(before, after, BLOCKS)
    moved = slerp(image, direction, 0.25, BLOCKS)
    torch.testing.assert_close(
        angles(moved, direction), 0.75 * angles(image, direction), atol=1e-6, rtol=1e-6
    )
    gained = cosine_by_encoder(moved, direction, BLOCKS) - cosine_by_encoder(
        image, direction, BLOCKS
    )
    assert (gained > 0).all()


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan, math.inf])
def test_a_weight_has_limits(weight):
    a, b = embeddings(0, 2)
    with pytest.raises(CorgiError, match="between 0 and 1"):
        slerp(a, b, weight, BLOCKS)


def test_what_has_no_way_is_refused():
    a, b = embeddings(0, 2)
    with pytest.raises(CorgiError, match="opposite directions"):
        slerp(a, torch.cat([-a[: BLOCKS[0]], b[BLOCKS[0] :]]), 0.5, BLOCKS)
    with pytest.raises(CorgiError, match="the same to CLIP"):
        text_difference(a, torch.cat([a[: BLOCKS[0]], b[BLOCKS[0] :]]), BLOCKS)
    with pytest.raises(CorgiError, match="wide"):
        slerp(a, b[:-1], 0.5, BLOCKS)
    with pytest.raises(CorgiError, match="not finite"):
        slerp(a, b * math.nan, 0.5, BLOCKS)
    with pytest.raises(CorgiError, match="no direction"):
        slerp(a, torch.cat([0 * a[: BLOCKS[0]], b[BLOCKS[0] :]]), 0.5, BLOCKS)
    with pytest.raises(CorgiError, match="2 or more"):
        interpolation(a, b, 1, BLOCKS)
