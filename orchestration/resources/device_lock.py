"""One computation at a time on a machine's device, whatever workspace it is of.

Dagster's pool `device` is a workspace's. Workspaces on one machine share a lock file, which names
its holder; the operating system releases it when that process ends, however it ends.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from corgi_core import progress
from corgi_core.io.locks import LockHeldError, exclusive_lock
from orchestration.resources.progress_log import current_step

RETRY_AFTER = 1.0  # seconds
BUSY = "waiting for this machine's device"

_held: set[Path] = set()  # by this process


@contextmanager
def device_held(path: Path | None, workspace: str) -> Iterator[None]:
    """Hold the device while the block runs; before that, wait for it, and say who has it.

    Args:
        path: The lock file; None: nothing is shared with others. A block within another one of
            the same process holds it already.
        workspace: For the others to read.
    """
    if path is None or path in _held:
        yield
        return
    with ExitStack() as holding:
        while True:
            try:
                holding.enter_context(exclusive_lock(path, BUSY, holder=_this_step(workspace)))
                break
            except LockHeldError as held:
                progress.report(held.problem, 0, 0)
                time.sleep(RETRY_AFTER)
        _held.add(path)
        holding.callback(_held.remove, path)
        yield


def _this_step(workspace: str) -> str:
    """Which step of which run asks, since when."""
    words = [f"workspace {workspace}"]
    if step := current_step():
        partition = f" {step.partition_key}" if step.has_partition_key else ""
        words += [f"run {step.run_id[:8]}", f"{step.asset_key.to_user_string()}{partition}"]
    return ", ".join([*words, f"since {datetime.now():%Y-%m-%d %H:%M:%S}"])
