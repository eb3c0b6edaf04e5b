"""A sampling step of some captions on a CPU, compiled into one function by numba.

One caption's step multiplies all weights by two rows, with and without the condition. That is
little arithmetic, so its time is that of reading the weights and of the work between the products:
four outputs, or four positions that are attended to, share each read, and GELU is arithmetic alone,
which processors do several at a time. A batch's step is bound by arithmetic. Its products go tile
by tile, four rows by three outputs, whose sums stay in registers: for so few rows a library's
product takes longer to rearrange the weights than to multiply by them. A dropped caption attends to
its own few positions, not to the padding beside the longest caption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray
from torch import Tensor, nn

from corgi_core.diffusion.guidance import guided
from corgi_core.prior.network import PriorNetwork

PAIR = 2  # rows that have a product of their own
TILE_ROWS, TILE_OUTPUTS = 4, 3  # of the product of more rows
MOST_ROWS = 64  # beyond which a library's product is as fast
SIDE_BY_SIDE = 4  # outputs of a product, positions that are attended to
ROOT_HALF = np.float32(math.sqrt(0.5))
FARTHEST = np.float32(4)  # erf is 1 beyond it, in float32
ERF = Chebyshev.interpolate(  # erf(√s)/√s on [0, 16], to 2e-7
    lambda s: np.array([math.erf(x) / x for x in np.sqrt(s)]),
    deg=15,
    domain=[0, float(FARTHEST) ** 2],
)
ERF_COEFFICIENTS = ERF.convert(kind=Polynomial, domain=ERF.domain).coef[::-1].astype(np.float32)
# numba.get_num_threads() would start numba's threads, which sets PyTorch's number of them
MAX_THREADS: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
Floats = NDArray[np.float32]
_guided: Any = njit(cache=True, fastmath=True)(guided)


class CompiledStep:
    """From the network's input `shrunk` to ẑ_0, guidance included, for some rows in float32.

    The first step on a machine takes some seconds for compiling; numba caches the result on disk.

    Args:
        network: the prior's.
        kv_cache: the blocks' keys and values [2, rows, heads, S, width/heads], whose last position
            is the step's own.
        attn_mask: which positions a row attends to [rows, S].
        cond_scale: of the guidance. If it is not 1, the second half of the rows is without the
            condition.
    """

    def __init__(
        self,
        network: PriorNetwork,
        kv_cache: Sequence[Tensor],
        attn_mask: Tensor,
        cond_scale: float,
    ) -> None:
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
            tuple(_array(layer) for layer in kv_cache),
            *_positions(attn_mask),
        )
        self._cond_scale = np.float32(cond_scale)
        self._rows = len(attn_mask)
        computed = PAIR if self._rows <= PAIR else max(TILE_ROWS, self._rows)
        self._shrunk = np.zeros((computed, network.shape.embedding_width), np.float32)
        self._z_0 = np.empty_like(self._shrunk)
        threads = torch.get_num_threads()
        numba.set_num_threads(min(threads, MAX_THREADS))
        torch.set_num_threads(threads)  # numba's threading layer sets PyTorch's at its start

    @staticmethod
    def serves(network: PriorNetwork, layer: Tensor) -> bool:
        """Whether a step can be compiled for a layer's cache: few rows, in float32, on a CPU."""
        narrowest = min(network.shape.width, network.shape.embedding_width)
        small = layer.shape[1] <= MOST_ROWS and narrowest >= SIDE_BY_SIDE
        return small and layer.device.type == "cpu" and layer.dtype == torch.float32

    def __call__(self, shrunk: Tensor, timestep: Tensor) -> Tensor:
        """`shrunk` and t's embedding [width] → ẑ_0 [n, d], as `CachedDenoiser` has them."""
        self._shrunk[: self._rows].reshape(-1, *shrunk.shape)[:] = shrunk.detach().numpy()
        _step(
            self._shrunk, timestep.detach().numpy(), *self._arguments, self._cond_scale, self._z_0
        )
        count = self._rows if self._cond_scale == 1 else self._rows // 2
        return torch.from_numpy(self._z_0[:count].copy())


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().contiguous().numpy()


def _positions(attn_mask: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions that a row attends to, before all others [rows, S]; their number [rows]."""
    order = attn_mask.int().argsort(dim=1, descending=True, stable=True)
    return _array(order), _array(attn_mask.sum(dim=1))


@njit(cache=True, fastmath=True)
def _linear(x: Floats, weight: Floats, bias: Floats, y: Floats) -> None:
    """y = x Wᵀ + b for two rows, or four and more."""
    if len(x) == PAIR:
        _linear_of_two(x, weight, bias, y)
    else:
        _linear_in_tiles(x, weight, bias, y)


@njit(cache=True, fastmath=True, parallel=True)
def _linear_in_tiles(x: Floats, weight: Floats, bias: Floats, y: Floats) -> None:
    rows, (outputs, inputs) = len(x), weight.shape
    for block in prange((outputs + TILE_OUTPUTS - 1) // TILE_OUTPUTS):
        o = min(block * TILE_OUTPUTS, outputs - TILE_OUTPUTS)  # the last overlaps the one before
        for tile in range((rows + TILE_ROWS - 1) // TILE_ROWS):
            r = min(tile * TILE_ROWS, rows - TILE_ROWS)  # likewise
            a0 = a1 = a2 = b0 = b1 = b2 = np.float32(0)
            c0 = c1 = c2 = d0 = d1 = d2 = np.float32(0)
            for i in range(inputs):
                a, b, c, d = x[r, i], x[r + 1, i], x[r + 2, i], x[r + 3, i]
                w0, w1, w2 = weight[o, i], weight[o + 1, i], weight[o + 2, i]
                a0 += w0 * a
                a1 += w1 * a
                a2 += w2 * a
                b0 += w0 * b
                b1 += w1 * b
                b2 += w2 * b
                c0 += w0 * c
                c1 += w1 * c
                c2 += w2 * c
                d0 += w0 * d
                d1 += w1 * d
                d2 += w2 * d
            first, second, third = bias[o], bias[o + 1], bias[o + 2]
            y[r, o], y[r, o + 1], y[r, o + 2] = a0 + first, a1 + second, a2 + third
            y[r + 1, o], y[r + 1, o + 1], y[r + 1, o + 2] = b0 + first, b1 + second, b2 + third
            y[r + 2, o], y[r + 2, o + 1], y[r + 2, o + 2] = c0 + first, c1 + second, c2 + third
            y[r + 3, o], y[r + 3, o + 1], y[r + 3, o + 2] = d0 + first, d1 + second, d2 + third


@njit(cache=True, fastmath=True, parallel=True)
def _linear_of_two(x: Floats, weight: Floats, bias: Floats, y: Floats) -> None:
    outputs, inputs = weight.shape
    for block in prange((outputs + SIDE_BY_SIDE - 1) // SIDE_BY_SIDE):
        o = min(block * SIDE_BY_SIDE, outputs - SIDE_BY_SIDE)  # the last overlaps the one before
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
        for output in range(o, o + SIDE_BY_SIDE):
            y[0, output] += bias[output]
            y[1, output] += bias[output]


@njit(cache=True, fastmath=True, parallel=True)
def _gelu(y: Floats) -> None:
    """x Φ(x) in place, by the exact GELU's Φ(x) = (1 + erf(x/√2))/2."""
    for row in prange(len(y)):
        values = y[row]
        x, square = np.empty_like(values), np.empty_like(values)
        erf = np.zeros_like(values)
        for i in range(len(values)):
            x[i] = min(max(values[i] * ROOT_HALF, -FARTHEST), FARTHEST)
            square[i] = x[i] * x[i] * (np.float32(2) / (FARTHEST * FARTHEST)) - np.float32(1)
        for coefficient in ERF_COEFFICIENTS:  # Horner's scheme, all values at a time
            for i in range(len(values)):
                erf[i] = erf[i] * square[i] + coefficient
        for i in range(len(values)):
            values[i] *= np.float32(0.5) + np.float32(0.5) * x[i] * erf[i]


@njit(cache=True, fastmath=True)
def _layer_norm(x: Floats, weight: Floats, bias: Floats, y: Floats) -> None:
    width = x.shape[1]
    for row in range(len(x)):
        total = square = np.float32(0)
        for i in range(width):
            total += x[row, i]
        mean = total / np.float32(width)
        for i in range(width):
            square += (x[row, i] - mean) ** 2
        scale = np.float32(1) / np.sqrt(square / np.float32(width) + np.float32(1e-5))
        for i in range(width):
            y[row, i] = (x[row, i] - mean) * scale * weight[i] + bias[i]


@njit(cache=True, fastmath=True, parallel=True, error_model="numpy")
def _attend(
    queries: Floats,
    kv_cache: Floats,
    positions: NDArray[np.int64],
    counts: NDArray[np.int64],
    attended: Floats,
) -> None:
    """Every row and head: attention over the positions that the row attends to."""
    rows, heads, _, width = kv_cache.shape[1:]
    for job in prange(rows * heads):
        row, head = job // heads, job % heads
        count, first = counts[row], head * width
        keys, values, query = kv_cache[0, row, head], kv_cache[1, row, head], queries[row, first:]
        # Padded with the last position, whose weight there is 0.
        blocks = (count + SIDE_BY_SIDE - 1) // SIDE_BY_SIDE
        order = np.full(blocks * SIDE_BY_SIDE, positions[row, count - 1])
        order[:count] = positions[row, :count]
        weights = np.empty(len(order), np.float32)
        for s in range(0, len(order), SIDE_BY_SIDE):
            p0, p1, p2, p3 = order[s], order[s + 1], order[s + 2], order[s + 3]
            a0 = a1 = a2 = a3 = np.float32(0)
            for i in range(width):
                q = query[i]
                a0 += q * keys[p0, i]
                a1 += q * keys[p1, i]
                a2 += q * keys[p2, i]
                a3 += q * keys[p3, i]
            weights[s], weights[s + 1], weights[s + 2], weights[s + 3] = a0, a1, a2, a3
        scale, highest = np.float32(1 / math.sqrt(width)), weights[:count].max()
        total = np.float32(0)
        for s in range(count):
            weights[s] = np.exp((weights[s] - highest) * scale)
            total += weights[s]
        weights[:count] /= total
        weights[count:] = 0
        output = np.zeros(width, np.float32)
        for s in range(0, len(order), SIDE_BY_SIDE):
            p0, p1, p2, p3 = order[s], order[s + 1], order[s + 2], order[s + 3]
            w0, w1, w2, w3 = weights[s], weights[s + 1], weights[s + 2], weights[s + 3]
            for i in range(width):
                output[i] += (
                    w0 * values[p0, i]
                    + w1 * values[p1, i]
                    + w2 * values[p2, i]
                    + w3 * values[p3, i]
                )
        attended[row, first : first + width] = output


@njit(cache=True, fastmath=True)
def _step(
    shrunk: Floats,
    timestep: Floats,
    weights: tuple[Floats, ...],
    biases: tuple[Floats, ...],
    norm_weights: tuple[Floats, ...],
    norm_biases: tuple[Floats, ...],
    kv_cache: tuple[Floats, ...],
    positions: NDArray[np.int64],
    counts: NDArray[np.int64],
    cond_scale: np.float32,
    z_0: Floats,
) -> None:
    """The network's output, guided in the first half of the rows if the scale is not 1.

    Linear layers: the noisy embedding's, the head, then five a block. Norms: the last one, then two
    a block.
    """
    width = len(timestep)
    rows, heads, length, part = kv_cache[0].shape[1:]
    x = np.empty((len(shrunk), width), np.float32)
    queries, attended, added = np.empty_like(x), np.zeros_like(x), np.empty_like(x)
    normed, own = np.empty_like(x), np.empty((len(x), 2 * width), np.float32)
    wide = np.empty((len(x), 4 * width), np.float32)
    _linear(shrunk, weights[0], biases[0], x)
    x += timestep
    for layer in range(len(kv_cache)):
        q, n = 2 + 5 * layer, 1 + 2 * layer
        _layer_norm(x, norm_weights[n], norm_biases[n], normed)
        _linear(normed, weights[q], biases[q], queries)
        _linear(normed, weights[q + 1], biases[q + 1], own)
        for row in range(rows):
            kv_cache[layer][:, row, :, length - 1] = own[row].reshape(2, heads, part)
        _attend(queries, kv_cache[layer], positions, counts, attended)
        _linear(attended, weights[q + 2], biases[q + 2], added)
        x += added
        _layer_norm(x, norm_weights[n + 1], norm_biases[n + 1], normed)
        _linear(normed, weights[q + 3], biases[q + 3], wide)
        _gelu(wide)
        _linear(wide, weights[q + 4], biases[q + 4], added)
        x += added
    _layer_norm(x, norm_weights[0], norm_biases[0], normed)
    _linear(normed, weights[1], biases[1], z_0)
    if cond_scale != 1:
        captions = rows // 2
        z_0[:captions] = _guided(z_0[captions:rows], z_0[:captions], cond_scale)
