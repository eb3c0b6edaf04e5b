"""Workers wait for the first one, which alone evaluates and writes, for as long as that takes.

A collective of torch's ends the training when a worker comes 10 minutes late (NCCL) or 30 (gloo).
An evaluation may take longer, and so may a checkpoint on a slow disk. So the workers meet here
before their next collective.
"""

from __future__ import annotations

import time
from datetime import timedelta

from torch import distributed

from corgi_core.errors import CorgiError

PATIENCE = timedelta(hours=24)


class Meeting:
    """Where all workers of a training wait for each other.

    Every worker makes one, after torch's process group; it has a group of its own, on CPUs.
    """

    def __init__(self, world_size: int) -> None:
        self._group = None
        if world_size > 1:
            self._group = distributed.new_group(backend="gloo", timeout=PATIENCE)

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
