"""Linear layers of frozen encoders, by the faster of two libraries of matrix products.

On CPUs torch multiplies float32 with Intel's MKL, which takes its path for AVX2 on AMD's processors
also where they have AVX-512. oneDNN, which torch carries for other operators, takes half the time
there, and about a fourteenth less where AVX2 is all they have.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [..., k] by weight [m, k], plus bias [m]: [..., m], as `torch.nn.functional.linear` has it.

    oneDNN multiplies in float32, without gradients; copies of the operands into its own form cost
    a few hundredths of a product's time.
    """
    if (
        not _onednn_is_faster()
        or x.device.type != "cpu"
        or not x.dtype == weight.dtype == torch.float32
        or torch.is_grad_enabled()
    ):
        return F.linear(x, weight, bias)
    return F.linear(x.to_mkldnn(), weight.to_mkldnn(), bias.to_mkldnn()).to_dense()


@cache
def _onednn_is_faster() -> bool:
    processor = torch.cpu.get_capabilities()
    is_amd = str(processor.get("cpu_name", "")).startswith("AMD")
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return is_amd and bool(processor.get("avx2")) and has_onednn
