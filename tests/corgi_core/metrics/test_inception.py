"""Inceptions in TorchScript: those that prepare images themselves, and bare networks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from corgi_core.metrics.inception import SIDE, InceptionFeatures, prepared


class Bare(nn.Module):
    """A network of floats: a linear map of the mean colour, and two pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.layer(x).mean(dim=(2, 3)), x[:, :, 7, 5]], dim=1)


class Whole(Bare):
    """The same, which takes bytes."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.uint8:
            raise RuntimeError("bytes are wanted")
        return x.float().mean(dim=(2, 3))


@pytest.mark.parametrize("side", [64, SIDE, 400])
def test_a_bare_network_is_given_prepared_images(tmp_path: Path, side: int) -> None:
    network = Bare()
    torch.jit.script(network).save(tmp_path / "bare.pt")
    images = torch.rand(3, 3, side, side)
    extractor = InceptionFeatures(str(tmp_path / "bare.pt"))
    pixels = (images * 255).round().to(torch.uint8)
    with torch.no_grad():
        expected = network(prepared(pixels)).numpy()
    np.testing.assert_allclose(extractor(images), expected, atol=1e-5)
    # TensorFlow 1's bilinear resize, pixel by pixel: the corner is at i · side / 299
    y, x = 7 * side / SIDE, 5 * side / SIDE
    top, left = int(y), int(x)
    block = pixels[0, :, top : top + 2, left : left + 2].double()
    down, right = y - top, x - left
    upper = block[:, 0, 0] * (1 - right) + block[:, 0, 1] * right
    lower = block[:, 1, 0] * (1 - right) + block[:, 1, 1] * right
    value = (upper * (1 - down) + lower * down - 128) / 128
    np.testing.assert_allclose(expected[0, 2:], value.numpy(), atol=1e-4)


def test_a_module_that_takes_bytes_is_given_them_as_they_are(tmp_path: Path) -> None:
    torch.jit.script(Whole()).save(tmp_path / "whole.pt")
    images = torch.rand(2, 3, 8, 8)
    found = InceptionFeatures(str(tmp_path / "whole.pt"))(images)
    expected = (images * 255).round().mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
