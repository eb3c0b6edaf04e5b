"""The precision in which a model computes while it is trained; all other numbers are float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from corgi_core.devices import has_bf16_products
from corgi_core.errors import CorgiError

PRECISIONS = ("auto", "fp32", "bf16")


def autocast(precision: str, device: torch.device | str) -> torch.autocast:
    """The context in which a model computes: bfloat16 for matrix products, or float32.

    "auto" is bf16 where the device has instructions for products of bfloat16 (AMX or AVX512_BF16 on
    a CPU, any GPU that knows the type), else fp32: without them bfloat16 is slower.
    """
    if precision not in PRECISIONS:
        raise CorgiError(
            f"there is no precision {precision!r}", f"choose one of {', '.join(PRECISIONS)}"
        )
    kind = torch.device(device).type
    half = precision == "bf16" or (precision == "auto" and has_bf16_products(kind))
    return torch.autocast(kind, torch.bfloat16, enabled=half)


class InPrecision(nn.Module):
    """A model that computes in a precision of its own.

    Only the call is affected: data that a task loads or derives meanwhile stay float32.
    """

    def __init__(self, model: nn.Module, precision: str, device: torch.device | str) -> None:
        super().__init__()
        self.model = model
        self._autocast = autocast(precision, device)

    def forward(self, *inputs: Any) -> Any:
        """The model's outputs, computed in that precision."""
        with self._autocast:
            return self.model(*inputs)
