"""The cascade's parts against closed forms: predictions, noised conditions, tiles."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import nn

from corgi_core.decoders.cascade.condition import larger, noised, smaller
from corgi_core.decoders.cascade.prediction import (
    PREDICTIONS,
    predicted_start,
    prediction_target,
)
from corgi_core.decoders.cascade.tiles import feather, in_tiles, starts
from corgi_core.decoders.noise import forward_process


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_true_prediction_says_the_picture_exactly(kind: str) -> None:
    x_0, noise = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    alpha_bar = torch.tensor([0.9999, 0.5, 0.01, 1e-4], dtype=torch.float64)
    alpha, sigma = alpha_bar.sqrt().view(4, 1, 1, 1), (1 - alpha_bar).sqrt().view(4, 1, 1, 1)
    x_t = alpha * x_0 + sigma * noise
    target = prediction_target(kind, x_0, noise, alpha_bar)
    torch.testing.assert_close(predicted_start(kind, x_t, target, alpha_bar), x_0)


def test_targets_are_those_of_diffusers() -> None:
    x_0, noise = torch.randn(2, 4, 3, 5, 5)
    process: DDPMScheduler = forward_process(-1.0)
    t = torch.tensor([0, 300, 600, 999])
    alpha_bar = process.alphas_cumprod[t]
    velocity = process.get_velocity(x_0, noise, t.int())
    torch.testing.assert_close(prediction_target("v", x_0, noise, alpha_bar), velocity)
    assert torch.equal(prediction_target("noise", x_0, noise, alpha_bar), noise)


def test_a_level_of_zero_is_the_plain_condition_and_one_is_noise_alone() -> None:
    low, noise = torch.randn(2, 3, 3, 4, 4)
    assert torch.equal(noised(low, torch.zeros(3), noise), low)
    assert torch.equal(noised(low, torch.ones(3), noise), noise)


def test_a_level_is_the_noise_s_deviation_and_keeps_the_variance() -> None:
    random = torch.Generator().manual_seed(0)
    low = torch.randn(1, 3, 128, 128, generator=random)
    noise = torch.randn(1, 3, 128, 128, generator=random)
    found = noised(low, torch.tensor([0.6]), noise)
    assert abs(float((found - 0.8 * low).std()) - 0.6) < 0.01
    assert abs(float(found.std()) - 1) < 0.02


def test_smaller_pictures_are_means_over_squares() -> None:
    pictures = torch.arange(3 * 36.0).view(1, 3, 6, 6)
    expected = pictures.unflatten(3, (2, 3)).unflatten(2, (2, 3)).mean(dim=(3, 5))
    torch.testing.assert_close(smaller(pictures, 2), expected)
    assert torch.equal(smaller(pictures, 6), pictures)
    torch.testing.assert_close(
        larger(torch.full((1, 3, 2, 2), 0.3), 8), torch.full((1, 3, 8, 8), 0.3)
    )


@pytest.mark.parametrize(("size", "tile", "overlap"), [(104, 40, 16), (64, 24, 8), (100, 40, 12)])
def test_tiles_cover_the_side_and_overlap_enough(size: int, tile: int, overlap: int) -> None:
    places = starts(size, tile, overlap)
    assert places[0] == 0
    assert places[-1] + tile == size
    assert all(b <= a + tile - overlap for a, b in pairwise(places))


def test_two_tiles_weights_sum_to_one() -> None:
    weights = torch.zeros(72)
    for start in (0, 32):  # 40 wide, they overlap by 8
        weights[start : start + 40] += feather(start, 72, 40, 8)
    torch.testing.assert_close(weights, torch.ones(72))


def test_a_constant_stays_that_constant_in_tiles() -> None:
    """Whatever the overlaps at the picture's end, the weights sum to one."""
    found = in_tiles(lambda x: torch.full_like(x, 0.7), torch.zeros(1, 3, 100, 100), 40, 12)
    torch.testing.assert_close(found, torch.full((1, 3, 100, 100), 0.7))


@pytest.mark.parametrize(("size", "tile"), [(72, 40), (100, 40), (40, 40)])
def test_convolutions_in_tiles_are_convolutions_at_once(size: int, tile: int) -> None:
    """Four 3×3 convolutions look 4 pixels far, a quarter of the overlap."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(6 if i == 0 else 3, 3, 3, padding=1) for i in range(4)]
    network = nn.Sequential(*layers)
    inputs = torch.randn(2, 6, size, size)
    with torch.no_grad():
        whole = network(inputs)
        torch.testing.assert_close(in_tiles(network, inputs, tile, 16), whole)
        if size > tile:
            seam = in_tiles(network, inputs, tile, 4) - whole  # too little context
            assert seam.abs().max() > 1e-3
