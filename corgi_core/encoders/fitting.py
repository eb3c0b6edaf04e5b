"""Whether an encoder's weights fit into memory, asked before they are read or moved."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from upath import UPath

from corgi_core.devices import device_of, free_memory
from corgi_core.errors import CorgiError

GB = 1e9
WEIGHTS = ("*.safetensors", "*.bin")  # the second is read where there is none of the first


def check_weights_fit(folder: Path | UPath, name: str) -> None:
    """CorgiError, before anything is read, if a folder's weights are more than memory is free."""
    found = ([*folder.glob(pattern)] for pattern in WEIGHTS)
    files = next((files for files in found if files), [])
    _check(sum(file.stat().st_size for file in files), name, torch.device("cpu"))


def check_model_fits(model: nn.Module, name: str, device: torch.device | str) -> None:
    """CorgiError, before it is moved, if a model has more weights than a device has memory free."""
    device = torch.device(device)
    if device.type != device_of(model).type:
        tensors = (*model.parameters(), *model.buffers())
        _check(sum(each.nbytes for each in tensors), name, device)


def _check(needed: int, name: str, device: torch.device) -> None:
    free = free_memory(device)
    if needed > free:
        where = "this machine" if device.type == "cpu" else f"the device {device}"
        raise CorgiError(
            f"the encoder {name} has weights of {needed / GB:.1f} GB, and {where} has "
            f"{free / GB:.1f} GB of memory free",
            "name a smaller encoder, end what else uses that memory, or compute where there is "
            "more of it",
        )
