"""Modulation, equalised layers and resampling against their definitions, plainly implemented."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import Tensor
from torch.nn import functional as F

from corgi_core.decoders.gan.layers import Convolution, Linear, doubled, halved, leaky
from corgi_core.decoders.gan.modulation import ConditionalStyle, ModulatedConvolution

KERNEL = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def by_definition(weight: Tensor, x: Tensor, style: Tensor, demodulates: bool) -> Tensor:
    """Each sample's own weights (Karras et al. 2020, equations 1 and 3), one tap after another."""
    outputs, inputs, size, _ = weight.shape
    scaled = weight.double() / (inputs * size * size) ** 0.5
    side, margin = x.shape[2], size // 2
    padded = F.pad(x.double(), [margin] * 4)
    y = torch.zeros(len(x), outputs, side, side, dtype=torch.double)
    for n in range(len(x)):
        for j in range(outputs):
            own = torch.stack([style[n, i].double() * scaled[j, i] for i in range(inputs)])
            if demodulates:
                own = own / (own.square().sum() + 1e-8).sqrt()
            for row in range(side):
                for column in range(side):
                    patch = padded[n, :, row : row + size, column : column + size]
                    y[n, j, row, column] = (own * patch).sum()
    return y


@pytest.mark.parametrize(("size", "demodulates"), [(3, True), (3, False), (1, True), (1, False)])
def test_a_modulated_convolution_has_every_samples_own_weights(
    size: int, demodulates: bool
) -> None:
    torch.manual_seed(0)
    layer = ModulatedConvolution(5, 4, size, demodulates=demodulates)
    x, style = torch.randn(3, 5, 6, 6), 1 + torch.randn(3, 5)
    expected = by_definition(layer.weight.detach(), x, style, demodulates)
    torch.testing.assert_close(layer(x, style).double(), expected, atol=1e-5, rtol=1e-4)


def test_demodulation_keeps_the_variance_whatever_the_style() -> None:
    torch.manual_seed(0)
    layer = ModulatedConvolution(64, 32, 3)
    style = torch.exp(2 * torch.randn(4, 64))
    y = layer(torch.randn(4, 64, 64, 64), style)[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(y.var(dim=(2, 3)), torch.ones(4, 32), atol=0.2, rtol=0)
    torch.testing.assert_close(layer(y.new_ones(4, 64, 3, 3), 1000 * style),
                               layer(y.new_ones(4, 64, 3, 3), style))  # fmt: skip


def test_a_style_hears_latent_and_embedding_and_is_about_one() -> None:
    torch.manual_seed(0)
    style = ConditionalStyle(16, 24, 400)
    w, z = torch.randn(50, 16), torch.randn(50, 24)
    assert abs(style(w, z).mean() - 1) < 0.1
    assert 0.5 < style(w, z).std() < 2
    assert (style(w, z) - style(w.roll(1, 0), z)).abs().mean() > 0.1
    assert (style(w, z) - style(w, z.roll(1, 0))).abs().mean() > 0.1


def test_equalised_layers_keep_the_mean_square_however_wide_they_are() -> None:
    torch.manual_seed(0)
    for inputs in (16, 1024):
        y = leaky(Linear(inputs, 2000, rate=0.01)(torch.randn(20, inputs)))
        assert abs(y.square().mean() - 1) < 0.2
        y = leaky(Convolution(inputs, 64, 3, rate=0.1)(torch.randn(2, inputs, 8, 8)))
        y = y[:, :, 1:-1, 1:-1]
        assert abs(y.square().mean() - 1) < 0.2


def test_a_rate_makes_a_layer_learn_so_much_slower() -> None:
    x, picture = torch.ones(1, 8), torch.ones(1, 8, 6, 6)
    pairs = [
        (Linear(8, 4, rate=0.01), Linear(8, 4), x),
        (Convolution(8, 4, 3, rate=0.01), Convolution(8, 4, 3), picture),
    ]
    for slow, fast, given in pairs:
        for layer in (slow, fast):
            layer(given).sum().backward()
        torch.testing.assert_close(slow.weight.grad, 0.01 * fast.weight.grad)
        torch.testing.assert_close(slow.bias.grad, 0.01 * fast.bias.grad)


def inside(x: np.ndarray, margin: int) -> np.ndarray:
    return x[margin:-margin, margin:-margin]


def test_resampling_filters_by_1_3_3_1() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 1, 12, 12)
    picture = x[0, 0].numpy()
    half = convolve2d(np.pad(picture, 1), KERNEL, mode="valid")[::2, ::2]
    np.testing.assert_allclose(halved(x)[0, 0], half, atol=1e-6)
    spread = np.zeros((24, 24))
    spread[::2, ::2] = picture
    double = convolve2d(np.pad(spread, ((2, 1), (2, 1))), 4 * KERNEL, mode="valid")
    np.testing.assert_allclose(inside(doubled(x)[0, 0].numpy(), 2), inside(double, 2), atol=1e-5)


def test_a_halving_convolution_filters_first() -> None:
    torch.manual_seed(0)
    layer, x = Convolution(1, 1, 3, halves=True), torch.randn(1, 1, 12, 12)
    filtered = convolve2d(np.pad(x[0, 0].numpy(), 2), KERNEL, mode="valid")
    weight = layer.weight[0, 0].detach().numpy()[::-1, ::-1] / 3
    expected = convolve2d(filtered, weight, mode="valid")[::2, ::2]
    np.testing.assert_allclose(layer(x)[0, 0].detach(), expected, atol=1e-5)
