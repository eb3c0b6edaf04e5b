"""The cascade's parts against closed forms: the low-resolution condition, and tiles."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from corgi_core.decoders.cascade.network import downsampled, noised, upsampled
from corgi_core.decoders.cascade.tiles import feather, in_tiles, starts


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


def test_downsampled_images_are_means_over_squares() -> None:
    pictures = torch.arange(3 * 36.0).view(1, 3, 6, 6)
    expected = pictures.unflatten(3, (2, 3)).unflatten(2, (2, 3)).mean(dim=(3, 5))
    torch.testing.assert_close(downsampled(pictures, 2), expected)
    assert torch.equal(downsampled(pictures, 6), pictures)
    torch.testing.assert_close(
        upsampled(torch.full((1, 3, 2, 2), 0.3), 8), torch.full((1, 3, 8, 8), 0.3)
    )


@pytest.mark.parametrize(("size", "tile", "overlap"), [(104, 40, 16), (64, 24, 8), (100, 40, 12)])
def test_tiles_cover_the_side_and_overlap_enough(size: int, tile: int, overlap: int) -> None:
    firsts = starts(size, tile, overlap)
    assert firsts[0] == 0
    assert firsts[-1] + tile == size
    assert all(b <= a + tile - overlap for a, b in pairwise(firsts))


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


def test_seams_between_tiles_with_other_statistics_are_below_a_bound() -> None:
    """As with GroupNorm, the output depends on the tile's statistics: here, its mean.

    On a ramp of slope g, neighbouring tiles then differ by a constant. Blended over half the
    overlap, two pixels differ by that constant over the blended width, and the slope; without
    overlap, the constant is a step.
    """
    size, tile, overlap, slope = 104, 40, 16, 0.01
    ramp = (slope * torch.arange(float(size))).expand(1, 3, size, size)

    def centred(x: Tensor) -> Tensor:
        return x - x.mean(dim=(2, 3), keepdim=True)

    def largest_step(overlap: int) -> float:
        found = in_tiles(centred, ramp, tile, overlap)
        return float(found.diff(dim=-1).abs().max())

    apart = slope * (tile - overlap)
    assert largest_step(overlap) <= slope + apart / (overlap / 2) + 1e-5
    assert largest_step(0) > slope * tile / 2
