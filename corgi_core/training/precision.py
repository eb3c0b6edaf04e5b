"""Which precision a training computes in."""

from __future__ import annotations

import torch

from corgi_core.errors import CorgiError

PRECISIONS = ("auto", "fp32", "bf16")


def autocast(precision: str, device: torch.device | str) -> torch.autocast:
    """The context in which losses are computed: bfloat16 for matrix products, or float32.

    "auto" is bf16 where the device multiplies bfloat16 matrices in hardware of their own (AMX on a
    CPU, any GPU that knows the type), else fp32: without such hardware bfloat16 is slower.
    """
    if precision not in PRECISIONS:
        raise CorgiError(
            f"there is no precision {precision!r}", f"choose one of {', '.join(PRECISIONS)}"
        )
    kind = torch.device(device).type
    half = precision == "bf16" or (precision == "auto" and _pays(kind))
    return torch.autocast(kind, torch.bfloat16, enabled=half)


def _pays(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported()
    return kind == "cpu" and torch.cpu._is_amx_tile_supported()
