"""Executes the steps of a run one after the other in the run's process, and can be interrupted.

Dagster's own in-process executor, with five additions: the run's tags name its process, its lines
are in the workspace's log, its steps are a trace, a step that waits for the device says who has it,
and an interrupt ends the run and all that it started within seconds, whatever it is doing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from corgi_core.errors import CorgiError
from orchestration.resources.instance import limit_promotions
from orchestration.resources.interrupts import ended_in_time
from orchestration.resources.logs import appended_to_log
from orchestration.resources.runs import (
    CANCELLED,
    cancelled_in_time,
    holders,
    mark_cancelling,
    take,
)
from orchestration.resources.traces import traced_run
from orchestration.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterEvent

BLOCKED = "blocked by limit for pool "  # in the message of Dagster's event


class _InterruptibleExecutor(dg.Executor):
    def __init__(self, steps: dg.Executor, settings: Settings) -> None:
        self._steps, self._settings = steps, settings

    @property
    def retries(self) -> Any:
        return self._steps.retries

    @property
    def step_dependency_config(self) -> Any:
        return self._steps.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[DagsterEvent]:
        instance, run_id = plan_context.instance, plan_context.run_id
        _check_recorded(Path(instance.root_directory), self._settings.dagster_home)
        log = appended_to_log(self._settings, instance, plan_context.dagster_run)
        instance.add_event_listener(run_id, log)
        limit_promotions(instance)
        take(instance, run_id)
        traced = traced_run(self._settings, instance, run_id, plan_context.dagster_run.job_name)
        with ended_in_time(leave=False), cancelled_in_time(instance, run_id), traced:
            try:
                for event in self._steps.execute(plan_context, execution_plan):
                    yield event
                    if BLOCKED in (message := event.message or ""):
                        pool = message.rpartition(BLOCKED)[2]
                        for holder in holders(instance, pool):
                            instance.report_engine_event(
                                f"The pool {pool} is taken: {holder}.", plan_context.dagster_run
                            )
            except CANCELLED:
                mark_cancelling(instance, run_id)
                raise


def one_process_executor_of(settings: Settings) -> dg.ExecutorDefinition:
    """The executor of a workspace's runs."""

    def executor(context: dg.InitExecutorContext) -> dg.Executor:
        create = dg.in_process_executor.executor_creation_fn
        assert create is not None
        return _InterruptibleExecutor(create(context), settings)

    return dg.ExecutorDefinition(
        name="in_process",
        description=__doc__,
        config_schema=dg.in_process_executor.config_schema.as_field(),
        executor_creation_fn=executor,
    )


def _check_recorded(root: Path, home: Path) -> None:
    """Refuse a run that Dagster records in a temporary folder, as without DAGSTER_HOME.

    It would replace artefacts of the workspace, which would never hear of it.
    """
    if root.resolve() != home.resolve() and not (root / "dagster.yaml").exists():
        raise CorgiError(
            f"Dagster would record this run in {root}, and the workspace would not know of it",
            f"run `export DAGSTER_HOME={home}` first; `corgi run` and `corgi ui` do so themselves",
        )
