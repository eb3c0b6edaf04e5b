"""A sampling step of one caption on a CPU, compiled: bound by reading the weights, and by no more.

One caption's step multiplies all weights by two rows, the shown and the hidden text's. That is
little arithmetic, so what counts is how fast the weights are read and what passes between the
products. numba compiles the whole step into one function in which four outputs share each read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor, nn

from corgi_core.prior.network import PriorNetwork

ROWS = 2  # the kernels' number of rows
OUTPUTS = 4  # of a product, computed side by side
MOST_THREADS = numba.get_num_threads()
Floats = NDArray[np.float32]


class CompiledStep:
    """From the noisy embedding to ẑ_0, for at most two rows in float32.

    `kept` are the blocks' keys and values [2, rows, heads, S, width/heads], whose last position is
    the step's own; `visible` [rows, S] says which a row sees. The first step on a machine takes
    some seconds, for compiling; the result is kept on disk.
    """

    def __init__(self, network: PriorNetwork, kept: Sequence[Tensor], visible: Tensor) -> None:
        linears: list[nn.Linear] = [network.noisy, network.head]
        norms: list[nn.LayerNorm] = [network.norm]
        for block in network.layers:
            linears += [block.query, block.key_value, block.out, block.mlp[0], block.mlp[2]]  # type: ignore[list-item]
            norms += [block.attention_norm, block.mlp_norm]
        self._arguments = (
            tuple(_array(linear.weight) for linear in linears),
            tuple(_array(linear.bias) for linear in linears),
            tuple(_array(norm.weight) for norm in norms),
            tuple(_array(norm.bias) for norm in norms),
            tuple(_array(layer) for layer in kept),
            _array(visible),
        )
        self._rows = len(visible)
        self._z_0 = np.empty((ROWS, network.shape.embedding_width), np.float32)
        self._threads = min(torch.get_num_threads(), MOST_THREADS)

    @staticmethod
    def serves(network: PriorNetwork, kept: Tensor) -> bool:
        """Whether these rows' steps can be compiled: few rows, in float32, on a CPU."""
        narrowest = min(network.shape.width, network.shape.embedding_width)
        small = kept.shape[1] <= ROWS and narrowest >= OUTPUTS
        return small and kept.device.type == "cpu" and kept.dtype == torch.float32

    def __call__(self, guess: Tensor, timestep: Tensor) -> Tensor:
        """The guess [n, d], t's embedding [width] → ẑ_0 [rows, d]; each row has guess row % n."""
        guesses = guess.repeat(ROWS // len(guess), 1).numpy()
        numba.set_num_threads(self._threads)
        _step(guesses, timestep.numpy(), *self._arguments, self._z_0)
        return torch.from_numpy(self._z_0[: self._rows].copy())


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().contiguous().numpy()


@njit(cache=True, fastmath=True, parallel=True)
def _linear(x: Floats, weight: Floats, bias: Floats, gelu: bool, y: Floats) -> None:
    """y = x Wᵀ + b for two rows; then, if told so, x Φ(x), the exact GELU."""
    outputs, inputs = weight.shape
    for block in prange((outputs + OUTPUTS - 1) // OUTPUTS):
        o = min(block * OUTPUTS, outputs - OUTPUTS)  # the last block overlaps the one before
        a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0)
        for i in range(inputs):
            first, second = x[0, i], x[1, i]
            w0, w1, w2, w3 = weight[o, i], weight[o + 1, i], weight[o + 2, i], weight[o + 3, i]
            a0 += w0 * first
            a1 += w1 * first
            a2 += w2 * first
            a3 += w3 * first
            b0 += w0 * second
            b1 += w1 * second
            b2 += w2 * second
            b3 += w3 * second
        y[0, o], y[0, o + 1], y[0, o + 2], y[0, o + 3] = a0, a1, a2, a3
        y[1, o], y[1, o + 1], y[1, o + 2], y[1, o + 3] = b0, b1, b2, b3
        for row in range(ROWS):
            for output in range(o, o + OUTPUTS):
                value = y[row, output] + bias[output]
                if gelu:
                    value *= np.float32(0.5 * (1 + math.erf(value / math.sqrt(2))))
                y[row, output] = value


@njit(cache=True, fastmath=True)
def _layer_norm(x: Floats, weight: Floats, bias: Floats, y: Floats) -> None:
    for row in range(ROWS):
        mean = x[row].mean()
        variance = np.square(x[row] - mean).mean()
        y[row] = (x[row] - mean) / np.sqrt(variance + np.float32(1e-5)) * weight + bias


@njit(cache=True, fastmath=True, parallel=True)
def _attend(queries: Floats, kept: Floats, visible: NDArray[np.bool_], found: Floats) -> None:
    """Every row and head: a softmax over the positions that the row sees."""
    rows, heads, positions, width = kept.shape[1:]
    for job in prange(rows * heads):
        row, head = job // heads, job % heads
        first = head * width
        scores = np.zeros(positions, np.float32)
        highest = np.float32(-3e38)
        for s in range(positions):
            if visible[row, s]:
                score = np.float32(0)
                for i in range(width):
                    score += queries[row, first + i] * kept[0, row, head, s, i]
                scores[s] = score / np.float32(math.sqrt(width))
                highest = max(highest, scores[s])
        total = np.float32(0)
        found[row, first : first + width] = 0
        for s in range(positions):
            if visible[row, s]:
                share = np.exp(scores[s] - highest)
                total += share
                for i in range(width):
                    found[row, first + i] += share * kept[1, row, head, s, i]
        found[row, first : first + width] /= total


@njit(cache=True, fastmath=True)
def _step(
    guesses: Floats,
    timestep: Floats,
    weights: tuple[Floats, ...],
    biases: tuple[Floats, ...],
    norm_weights: tuple[Floats, ...],
    norm_biases: tuple[Floats, ...],
    kept: tuple[Floats, ...],
    visible: NDArray[np.bool_],
    z_0: Floats,
) -> None:
    """The network. Linears are the noisy embedding's, the head, then five a block; norms the last
    one, then two a block."""
    width = len(timestep)
    rows, heads, positions, part = kept[0].shape[1:]
    x, normed = np.empty((ROWS, width), np.float32), np.empty((ROWS, width), np.float32)
    queries, found, added = np.empty_like(x), np.zeros_like(x), np.empty_like(x)
    own, wide = np.empty((ROWS, 2 * width), np.float32), np.empty((ROWS, 4 * width), np.float32)
    _linear(guesses, weights[0], biases[0], False, x)
    x += timestep
    for layer in range(len(kept)):
        q, n = 2 + 5 * layer, 1 + 2 * layer
        _layer_norm(x, norm_weights[n], norm_biases[n], normed)
        _linear(normed, weights[q], biases[q], False, queries)
        _linear(normed, weights[q + 1], biases[q + 1], False, own)
        for row in range(rows):
            kept[layer][:, row, :, positions - 1] = own[row].reshape(2, heads, part)
        _attend(queries, kept[layer], visible, found)
        _linear(found, weights[q + 2], biases[q + 2], False, added)
        x += added
        _layer_norm(x, norm_weights[n + 1], norm_biases[n + 1], normed)
        _linear(normed, weights[q + 3], biases[q + 3], True, wide)
        _linear(wide, weights[q + 4], biases[q + 4], False, added)
        x += added
    _layer_norm(x, norm_weights[0], norm_biases[0], normed)
    _linear(normed, weights[1], biases[1], False, z_0)
