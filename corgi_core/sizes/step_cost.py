"""What one step of a model costs, found by running it on tensors that hold no data.

torch's fake tensors have a shape, a type and a storage of a size, and nothing in it: operators
compute the shapes of their results by torch's meta kernels. So a network of any size takes its
forward and backward pass on a laptop. What it would compute is counted operator by operator, and
what it would hold in memory by the storages that are alive.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)
from torch.utils.weak import WeakIdKeyDictionary

from corgi_core.training.precision import autocast


@dataclass(frozen=True)
class StepCost:
    """What a step of some samples costs on one device.

    Attributes:
        parameters: the network's.
        trained: how many of them learn.
        weights: bytes of the parameters.
        flops: floating-point operations of the forward pass, and of the backward pass if anything
            learns; a multiplication and an addition are two.
        activations: most bytes alive at once beside parameters, buffers and gradients.
    """

    parameters: int
    trained: int
    weights: int
    flops: int
    activations: int


def step_cost(
    build: Callable[[], nn.Module], run: Callable[[nn.Module], Tensor], precision: str
) -> StepCost:
    """The cost of a step: `run` on what `build` makes, then backward if it has what learns.

    Args:
        build: Makes the network; called on the meta device, so it may be of any size.
        run: Calls the network on inputs that it makes itself, and returns the output.
        precision: "fp32"; "bf16" or "auto" for autocast as a GPU has it.
    """
    with torch.device("meta"):
        network = build()
    parameters = list(network.parameters())  # before those that are shared have copies
    with FakeTensorMode(allow_non_fake_inputs=True):
        network.to_empty(device="cpu")
        learning = [each for each in network.parameters() if each.requires_grad]
        for parameter in learning:  # as in all microbatches but the first: added to, not made
            parameter.grad = torch.zeros_like(parameter)
        gradients = [each.grad for each in learning if each.grad is not None]
        counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
        with PeakMemory([*network.parameters(), *network.buffers(), *gradients]) as memory, counter:
            with torch.set_grad_enabled(bool(learning)), _as_on_a_gpu(precision):
                output = run(network)
            if learning:
                torch.autograd.backward(output.float().square().mean())
    return StepCost(
        parameters=sum(each.numel() for each in parameters),
        trained=sum(each.numel() for each in parameters if each.requires_grad),
        weights=sum(each.nbytes for each in parameters),
        flops=counter.get_total_flops(),
        activations=memory.peak,
    )


def _attention(*shapes: Any, **_: Any) -> int:
    count: Any = sdpa_flop_count  # untyped
    return int(count(*shapes[:3]))  # of query, key and value


def _attention_backward(*shapes: Any, **_: Any) -> int:
    count: Any = sdpa_backward_flop_count
    return int(count(*shapes[:4]))  # of the output's gradient, query, key and value


_aten = torch.ops.aten
# A CPU's operator for attention, which FlopCounterMode does not know; as many products as a GPU's.
_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operators make inside it: `peak` is the most bytes alive at once.

    Args:
        before: Tensors that are there already and do not count.
    """

    def __init__(self, before: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._alive = 0
        self._known = WeakIdKeyDictionary()
        for tensor in before:
            self._known[tensor.untyped_storage()] = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                self._follow(each.untyped_storage())
        self.peak = max(self.peak, self._alive)
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known[storage] = None
        size = storage.nbytes()
        self._alive += size
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self._alive -= size


class _NormsInFloat32(TorchFunctionMode):
    """What a GPU's autocast computes in float32 and a CPU's in bfloat16."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (F.group_norm, F.layer_norm):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


@contextmanager
def _as_on_a_gpu(precision: str) -> Iterator[None]:
    """Autocast of CPU tensors that gives them the types that a GPU's would have."""
    with ExitStack() as stack:
        if precision != "fp32":
            stack.enter_context(autocast("bf16", "cpu"))
            stack.enter_context(_NormsInFloat32())
        yield
