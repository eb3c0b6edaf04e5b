"""Workers wait for each other while they evaluate, and while the first one alone writes.

A collective of torch's ends the training when a worker comes 10 minutes late (NCCL) or 30 (gloo).
An evaluation may take longer, and so may a checkpoint on a slow disk. So the workers meet here
before their next collective.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from torch import distributed, nn

from corgi_core.errors import CorgiError

PATIENCE = timedelta(hours=24)

Chunk = TypeVar("Chunk")
Value = TypeVar("Value")


class Meeting:
    """Where all workers of a training wait for each other.

    Every worker makes one, after torch's process group; it has a group of its own, on CPUs.
    """

    def __init__(self, world_size: int = 1, rank: int = 0) -> None:
        self._world_size, self._rank = world_size, rank
        self._group = None
        if world_size > 1:
            self._group = distributed.new_group(backend="gloo", timeout=PATIENCE)

    def share_buffers(self, model: nn.Module) -> None:
        """Give all workers the first one's buffers, such as the means of batch norms."""
        if self._group is not None:
            for buffer in model.buffers():
                on_cpu = buffer.detach().cpu()
                distributed.broadcast(on_cpu, src=0, group=self._group)
                buffer.copy_(on_cpu)

    def each(self, function: Callable[[Chunk], Value], chunks: Sequence[Chunk]) -> list[Value]:
        """function(chunk) of every chunk, in their order; each worker computes its share of them.

        All workers call this with the same chunks, and all get all values. So what is summed over
        chunks that do not depend on the number of workers does not depend on it either.

        Raises as `wait`.
        """
        mine = [function(chunk) for chunk in chunks[self._rank :: self._world_size]]
        if self._group is None:
            return mine
        self.wait("evaluates")
        values: list[Any] = [None] * self._world_size
        distributed.all_gather_object(values, mine, group=self._group)
        return [values[i % self._world_size][i // self._world_size] for i in range(len(chunks))]

    def wait(self, first_does: str) -> None:
        """Return when every worker has called this; at once where there is but one.

        Args:
            first_does: What the first worker does before it calls this: "evaluates after step 8".

        Raises:
            CorgiError: it has not come within 24 hours.
            RuntimeError: a worker has died.
        """
        if self._group is None:
            return
        began = time.monotonic()
        try:
            distributed.monitored_barrier(self._group, timeout=PATIENCE)
        except RuntimeError as failure:
            if time.monotonic() - began < PATIENCE.total_seconds():
                raise
            hours = PATIENCE.total_seconds() / 3600
            raise CorgiError(
                f"a worker has waited {hours:g} hours for another: the first one {first_does}",
                "evaluate on fewer images or less often, save less often, or look for a worker "
                "that hangs; then train again, from the last checkpoint",
            ) from failure
