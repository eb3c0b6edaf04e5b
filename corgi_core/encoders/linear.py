"""Linear layers of frozen encoders, by the faster of two libraries of matrix products.

torch multiplies on CPUs with Intel's MKL, NumPy with OpenBLAS. On AMD's processors without AVX-512
OpenBLAS takes about a seventh less time for the shapes of a ViT-B; elsewhere torch's is taken.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [..., k] by weight [m, k], plus bias [m]: [..., m], as `torch.nn.functional.linear` has it.

    NumPy multiplies only in float32, without gradients, and where each operator is computed in one
    thread (`corgi_core.devices.one_thread_each`), since the libraries' threads would compete.
    """
    if (
        not _numpy_is_faster()
        or x.device.type != "cpu"
        or not x.dtype == weight.dtype == torch.float32
        or torch.is_grad_enabled()
        or torch.get_num_threads() != 1
    ):
        return F.linear(x, weight, bias)
    product = x.new_empty(*x.shape[:-1], len(weight))
    rows = product.view(-1, len(weight))
    np.matmul(x.reshape(-1, x.shape[-1]).numpy(), weight.detach().numpy().T, out=rows.numpy())
    return product.add_(bias)


@cache
def _numpy_is_faster() -> bool:
    processor = torch.cpu.get_capabilities()
    is_amd = str(processor.get("cpu_name", "")).startswith("AMD")
    return is_amd and bool(processor.get("avx2")) and not processor.get("avx512_f")
