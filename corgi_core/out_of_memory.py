"""Running out of memory in one sentence: what ran, how much was missing, what to set lower."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from upath import UPath

from corgi_core.devices import device_of, free_memory
from corgi_core.errors import CorgiError

GB = 1e9
WEIGHTS = ("*.safetensors", "*.bin")
# of the RuntimeErrors by which torch's allocators and libraries say it; the CPU's is the first
SIGNS = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
_TRIED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)


@contextmanager
def out_of_memory_explained(doing: str, remedy: str) -> Iterator[None]:
    """Turn running out of a GPU's or the machine's memory into a CorgiError.

    Args:
        doing: What is done inside, and at what size, to follow "while": "decoding 4 images".
        remedy: What to set lower.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as failure:
        if not ran_out(failure):
            raise
        raise CorgiError(
            f"{_device_of(failure)} ran out of memory while {doing}{_missing(failure)}", remedy
        ) from failure


def ran_out(failure: BaseException) -> bool:
    """Whether an exception says that memory is used up; torch.OutOfMemoryError always does."""
    if isinstance(failure, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(failure, RuntimeError) and any(sign in str(failure) for sign in SIGNS)


def check_weights_fit(folder: Path | UPath, name: str) -> None:
    """CorgiError, before anything is read, if a folder's weights are more than memory is free."""
    files = [file for pattern in WEIGHTS for file in folder.glob(pattern)]
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


def _device_of(failure: BaseException) -> str:
    of_gpu = isinstance(failure, torch.OutOfMemoryError) or not (
        isinstance(failure, MemoryError) or SIGNS[0] in str(failure)
    )
    return "the GPU" if of_gpu else "this machine"


def _missing(failure: BaseException) -> str:
    found = _TRIED.search(str(failure))
    if not found:
        return ""
    amount, unit = found.groups()
    size = f"{float(amount) / GB:.2f} GB" if unit == "bytes" else f"{amount} {unit}"
    return f" ({size} more were needed)"
