"""Executes the steps of a run one after the other in the run's process, and can be interrupted.

Dagster's own in-process executor, with three additions: the run's tags name its process, a step
that waits for the device says who has it, and an interrupt ends the run and all that it started
within seconds, whatever it is doing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from orchestration.resources.interrupts import ended_in_time
from orchestration.resources.runs import (
    CANCELLED,
    cancelled_in_time,
    holders,
    mark_cancelling,
    process_tags,
)

if TYPE_CHECKING:
    from dagster import DagsterEvent

BLOCKED = "blocked by limit for pool "  # in the message of Dagster's event


class _InterruptibleExecutor(dg.Executor):
    def __init__(self, steps: dg.Executor) -> None:
        self._steps = steps

    @property
    def retries(self) -> Any:
        return self._steps.retries

    @property
    def step_dependency_config(self) -> Any:
        return self._steps.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[DagsterEvent]:
        instance, run_id = plan_context.instance, plan_context.run_id
        instance.add_run_tags(run_id, process_tags())
        with ended_in_time(leave=False), cancelled_in_time(instance, run_id):
            try:
                for event in self._steps.execute(plan_context, execution_plan):
                    yield event
                    if BLOCKED in (event.message or ""):
                        pool = event.message.rpartition(BLOCKED)[2]
                        for holder in holders(instance, pool):
                            instance.report_engine_event(
                                f"The pool {pool} is taken: {holder}.", plan_context.dagster_run
                            )
            except CANCELLED:
                mark_cancelling(instance, run_id)
                raise


def _executor(context: dg.InitExecutorContext) -> dg.Executor:
    create = dg.in_process_executor.executor_creation_fn
    assert create is not None
    return _InterruptibleExecutor(create(context))


one_process_executor = dg.ExecutorDefinition(
    name="in_process",
    description=__doc__,
    config_schema=dg.in_process_executor.config_schema,
    executor_creation_fn=_executor,
)
