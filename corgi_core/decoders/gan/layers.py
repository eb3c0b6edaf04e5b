"""Layers of both networks: equalised layers, and resampling without aliasing.

Weights are initialised from N(0, 1) and scaled in use, so that Adam moves all of them alike
(Karras et al., "Progressive Growing of GANs", 2018, section 4.1). Sizes are halved and doubled with
the filter [1, 3, 3, 1] (Karras et al., "Analyzing and Improving the Image Quality of StyleGAN",
2020, appendix B).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE, GAIN = 0.2, 2**0.5
FILTER = (1.0, 3.0, 3.0, 1.0)


class Linear(nn.Module):
    """Equalised; `rate` is its learning rate relative to the optimiser's."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self._scale, self._rate = rate * inputs**-0.5, rate

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs] → [n, outputs]."""
        return F.linear(x, self.weight * self._scale, self.bias * self._rate)


class Convolution(nn.Module):
    """Equalised, of odd `size`, with a `rate` as `Linear` has.

    With `halves` its output has half the side, without aliasing.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, *, halves: bool = False, rate: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size) / rate)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self._scale, self._rate, self._halves = rate * (inputs * size**2) ** -0.5, rate, halves

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, s, s] → [n, outputs, s, s], or s / 2."""
        weight, bias = self.weight * self._scale, self.bias * self._rate
        if not self._halves:
            return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        margin = weight.shape[-1] // 2 + 1
        return F.conv2d(_filtered(x, margin), weight, bias, stride=2)


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the mean square of N(0, 1)."""
    return F.leaky_relu(x, SLOPE) * GAIN


def doubled(x: Tensor) -> Tensor:
    """[n, c, s, s] → [n, c, 2s, 2s]. Bilinear weights are the filter's, but for the border."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def halved(x: Tensor) -> Tensor:
    """[n, c, s, s] → [n, c, s/2, s/2]."""
    return _filtered(x, margin=1)[..., ::2, ::2]


def _filtered(x: Tensor, margin: int) -> Tensor:
    taps = torch.tensor(FILTER, dtype=x.dtype, device=x.device) / sum(FILTER)
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(x, kernel, padding=margin, groups=x.shape[1])
