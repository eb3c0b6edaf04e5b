"""A GPU that is none: tensors of the device "meta" that have values, refused where a GPU refuses.

A tensor moved there is wrapped. Operations on wrapped tensors compute on the CPU what is inside, so
that results can be compared with the CPU's; they fail where tensors of both devices meet, and so
does numpy. torch's own fakes know shapes alone, and code that looks at values cannot run on them.
The device is named "meta", since a CPU build of torch refuses most operations on others.

The one private module here, torch.utils._python_dispatch of torch 2.13, is what torch documents for
tensors like these; the tests import it, Corgi does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("meta")
ops: Any = torch.ops.aten
COPIES = (ops.copy_.default, ops._to_copy.default)  # which go from device to device
INDEXED = (ops.index.Tensor, ops.index_put.default, ops.index_put_.default)  # by the CPU's too
JOINED = (ops.cat.default, ops.stack.default)  # of single numbers too, all on one device


class MixedDevicesError(RuntimeError):
    """An operation got tensors of the GPU and of the CPU."""


class OnGpu(Tensor):
    """A tensor that says it is on the GPU; `inside` holds its numbers."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> Self:
        wrapper: Self = Tensor._make_wrapper_subclass(
            cls, inside.shape, strides=inside.stride(), storage_offset=inside.storage_offset(),
            dtype=inside.dtype, device=GPU, requires_grad=inside.requires_grad,
        )  # fmt: skip
        wrapper.inside = inside.detach()
        return wrapper

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.inside!r})"

    @classmethod
    def __torch_dispatch__(
        cls, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return computed(op, args, kwargs or {})


def computed(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on what is inside; what it returns is on the GPU unless it was copied off."""
    given = [*tensors_in(args), *tensors_in(kwargs)]
    _check(op, given)
    target = kwargs.get("device")
    if target is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    wrappers = {id(each.inside): each for each in given if isinstance(each, OnGpu)}
    with torch.inference_mode(False), torch.no_grad():  # which wrappers cannot be in
        result = op(*mapped(args, _inside), **mapped(kwargs, _inside))
        if target is not None and torch.device(target).type != GPU.type:
            return mapped(result, lambda t: t.clone())
        return mapped(result, lambda t: wrappers.get(id(t)) if id(t) in wrappers else OnGpu(t))


def _check(op: Any, given: list[Tensor]) -> None:
    others = [t for t in given if not isinstance(t, OnGpu)]
    assert not any(t.is_meta for t in others), f"{op} got a tensor without values"
    if not others or len(others) == len(given) or op in COPIES:
        return
    if op in INDEXED and isinstance(given[0], OnGpu):
        others = [t for t in others if t.dtype not in (torch.long, torch.bool)]
    if op in JOINED or any(t.ndim for t in others):
        raise MixedDevicesError(f"{op} got tensors of the GPU and of the CPU")


def _inside(tensor: Tensor) -> Tensor:
    return tensor.inside if isinstance(tensor, OnGpu) else tensor


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)


def mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """The nested value with its tensors replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: mapped(each, function) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([mapped(each, function) for each in value])
    return value


class Moves(TorchFunctionMode):
    """Calls that name the GPU as a device, which a CPU build of torch would refuse at once."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function is Tensor.to:
            return self._to(args, kwargs)
        if function is Tensor.cpu:
            return _moved(args[0], torch.device("cpu"))
        if function is Tensor.tolist and isinstance(args[0], OnGpu):
            return args[0].inside.tolist()
        if function in (Tensor.numpy, Tensor.__array__) and isinstance(args[0], OnGpu):
            raise TypeError("numpy takes no tensor of the GPU")
        if function in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], list):
            # torch would make the indices on the GPU, where no mode is asked
            args = (args[0], torch.tensor(args[1]), *args[2:])
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == GPU.type:
            return _moved(function(*args, **kwargs | {"device": None}), GPU)
        return function(*args, **kwargs)

    def _to(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        tensor, *rest = args
        device, dtype, *_, memory_format = torch._C._nn._parse_to(*rest, **kwargs)
        if device is None:
            return tensor.to(*rest, **kwargs)
        moved = _moved(tensor, device)
        return (
            moved
            if dtype is None and memory_format is None
            else moved.to(
                dtype=dtype or moved.dtype, memory_format=memory_format or torch.preserve_format
            )
        )


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == GPU.type:
        return tensor if isinstance(tensor, OnGpu) else OnGpu(tensor.detach().clone())
    return tensor.inside.clone() if isinstance(tensor, OnGpu) else tensor


class Factories(TorchDispatchMode):
    """Tensors that torch itself makes on the GPU inside an operation."""

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        names_gpu = device is not None and torch.device(device).type == GPU.type
        if names_gpu or any(isinstance(t, OnGpu) for t in tensors_in([args, kwargs])):
            return computed(op, args, kwargs)
        return op(*args, **kwargs)


@contextmanager
def fake_gpu() -> Iterator[torch.device]:
    """While the block runs, "meta" is a GPU."""
    with Factories(), Moves():
        yield GPU


@contextmanager
def its_generators() -> Iterator[None]:
    """Inside, torch.Generator makes one on the CPU for the GPU too: for training's own numbers."""
    real = torch.Generator
    with patch.object(torch, "Generator", lambda device="cpu": real("cpu")):
        yield
