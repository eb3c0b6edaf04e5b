"""A model whose call is compiled by torch.compile: a slow first step, then faster ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from corgi_core.errors import CorgiError


class Compiled(nn.Module):
    """The model's call, compiled. The model itself, its parameters and their names stay the same.

    Raises CorgiError at its first call where there is no compiler to build kernels with.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._call = torch.compile(model)

    def forward(self, *inputs: Any) -> Any:
        from torch._dynamo.exc import BackendCompilerFailed

        try:
            return self._call(*inputs)
        except BackendCompilerFailed as failure:
            cause = str(failure.inner_exception).partition("\n")[0]
            raise CorgiError(
                f"the model cannot be compiled: {cause}",
                "install a C++ compiler such as g++, or train with compile=False",
            ) from failure
