"""Where models compute, and in which precision.

A model computes on the device that it was moved to. It moves there what it is given, and its result
is there too; only text tokens come back to the CPU, since they are many. The noise of samples is
made on the CPU, so that it is the same on every device.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from threading import Lock
from typing import Any, get_args

import psutil
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from corgi_core.config import InferencePrecision
from corgi_core.errors import CorgiError

BEST = "best"  # the name of the GPU where there is one, else of the CPU
FLOAT32 = {"tf32": "tf32", "fp32": "ieee"}  # how torch computes products of float32, by precision
RESERVE = 0.1  # of the memory that is free, left to what is not counted


@dataclass(frozen=True)
class Device:
    """A device to compute on, and a precision to encode, sample and decode in.

    Attributes:
        name: Of torch's devices, such as "cpu" or "cuda:1". "best" is the GPU of the process that
            computes, or its CPU where it has none.
        precision: As `inference` describes it.
    """

    name: str = BEST
    precision: InferencePrecision = "auto"

    def here(self) -> torch.device:
        """The device as this process has it. CorgiError where it has none of that name."""
        if self.name == BEST:
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.device(self.name)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise CorgiError(
                f"there is no device {self.name} here, but {torch.cuda.device_count()} GPUs",
                f"name another one, or {BEST!r}",
            )
        return device


CPU = Device("cpu")


def device_of(model: nn.Module) -> torch.device:
    """Where a module's tensors are; the CPU if it has none."""
    tensors = chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


@contextmanager
def inference(device: torch.device, precision: str) -> Iterator[None]:
    """Inside, matrix products and convolutions on a GPU are computed in a precision.

    A CPU computes in float32 whatever the precision, but for image towers (`tower_dtype`); and so
    do normalisations and softmax.

    Args:
        device: Where the products are computed.
        precision: "bf16"; "tf32", float32 with 10 bits of mantissa in products; "fp32", without
            this; or "auto", bf16 where the GPU has it, else fp32.

    Raises:
        CorgiError: for another precision.
    """
    if precision not in (known := get_args(InferencePrecision)):
        raise CorgiError(
            f"nothing is encoded or sampled in {precision!r}", f"choose one of {', '.join(known)}"
        )
    if device.type != "cuda":
        yield
        return
    half = precision == "bf16" or (precision == "auto" and torch.cuda.is_bf16_supported())
    products = _products.computed_in(FLOAT32[precision]) if precision in FLOAT32 else nullcontext()
    with products, torch.autocast(device.type, torch.bfloat16, enabled=half):
        yield


def tower_dtype(device: torch.device, precision: str) -> torch.dtype:
    """The type in which an image tower computes that is not under `inference`'s care.

    bfloat16 on a CPU where "bf16" is asked for: a converted tower is twice as fast with AVX512_BF16
    or AMX, while casts at every product, as autocast makes them, cost what they save. "auto" stays
    float32 there: bfloat16 turns an embedding by a hundred times as much as its storage in float16.
    A CPU without such instructions is slower in bfloat16: a warning says so.
    """
    if device.type != "cpu" or precision != "bf16":
        return torch.float32
    if not has_bf16_products("cpu"):
        warnings.warn(
            "this CPU has no instructions for bfloat16, and CLIP's image towers are slower in it: "
            "set inference_precision to auto or fp32",
            stacklevel=2,
        )
    return torch.bfloat16


def has_bf16_products(kind: str) -> bool:
    """Whether a kind of device has instructions for products of bfloat16.

    Args:
        kind: Of torch's devices. A "cpu" has them with AMX or AVX512_BF16, a "cuda" if it knows the
            type, others never.
    """
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    known = torch.cpu.get_capabilities()
    return kind == "cpu" and any(known.get(name) for name in ("amx_bf16", "avx512_bf16"))


class _Products:
    """How torch computes products of float32 on GPUs: one setting for all threads."""

    def __init__(self) -> None:
        self._lock, self._users, self._before = Lock(), 0, ("", "")

    @contextmanager
    def computed_in(self, precision: str) -> Iterator[None]:
        """Inside, in a precision of torch's; what was set returns when no thread is inside."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = self._set(precision, precision)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._set(*self._before)

    def _set(self, matmul: str, convolutions: str) -> tuple[str, str]:
        """Set both; what they were."""
        cudnn: Any = torch.backends.cudnn  # not annotated, as some of torch.cuda
        of_matmul: Any = torch.backends.cuda.matmul
        of_convolutions = cudnn.conv
        before = of_matmul.fp32_precision, of_convolutions.fp32_precision
        of_matmul.fp32_precision, of_convolutions.fp32_precision = matmul, convolutions
        return before


_products = _Products()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Inside, torch and NumPy compute each operator in the thread that calls it.

    Operators that are shared among threads round differently with another number of them. Batches
    are shared instead, so that the arrays depend on no number of threads or workers.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


def release_memory() -> None:
    """Give back the GPU's memory that this process keeps for later, to other processes."""
    cuda: Any = torch.cuda
    if cuda.is_initialized():
        gc.collect()  # takes a second in a process that has loaded all libraries
        cuda.empty_cache()


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked to do, as clocks must."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still use on a device, less a reserve."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int((1 - RESERVE) * (free + cached))
    return int((1 - RESERVE) * psutil.virtual_memory().available)
