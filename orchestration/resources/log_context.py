"""What a log line belongs to: Dagster's run, the asset and its partition, MLflow's run, the trace.

A process executes one step at a time. A line of another thread, such as that which follows a
training's metrics, belongs to the step that the process is in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestration.resources.progress_log import current_step
from orchestration.resources.traces import note, trace_id

_tracked: list[Callable[[], str | None]] = []  # MLflow's ids of the runs that are open, outer first


@contextmanager
def in_mlflow_run(run_id: Callable[[], str | None]) -> Iterator[None]:
    """While the block runs, log lines name that run of MLflow's, once its id is known.

    The step's span names it when the block ends.
    """
    _tracked.append(run_id)
    try:
        yield
    finally:
        _tracked.remove(run_id)
        note(**{"mlflow.run_id": run_id()})


class LogContext(logging.Filter):
    """Gives each record the attribute `belongs`, such as "[run=6f0c asset=prior mlflow=81ab] ".

    Before its first step, a run's lines name the run alone.
    """

    def __init__(self, run_id: str = "") -> None:
        super().__init__()
        self._step = {"run": run_id} if run_id else {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record passes."""
        if step := current_step():
            partition = step.partition_key if step.has_partition_key else ""
            asset = step.asset_key.to_user_string()
            self._step = {"run": step.run_id, "asset": asset, "partition": partition}
        tracked = _tracked[-1]() if _tracked else None
        names = {"mlflow": tracked or "", "trace": trace_id() or ""}
        words = self._step | names if self._step else {}
        named = " ".join(f"{name}={value}" for name, value in words.items() if value)
        record.__dict__["belongs"] = f"[{named}] " if named else ""
        return True
