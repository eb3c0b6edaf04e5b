"""Removes what a workspace stores and nothing refers to, so that years of retrains stay bounded.

What refers to something is: the latest materialization of a partition, an alias in MLflow, the
champions that a rollback can go back to, and `models.json`. Versions and runs that are younger than
the policy says stay too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
from pydantic import Field

from corgi_core.errors import CorgiError
from corgi_core.io.files import is_local
from corgi_core.io.locks import exclusive_lock
from orchestration.automation.refresh import only_one
from orchestration.resources.champions import LOCK, PATIENCE
from orchestration.resources.leftover_models import (
    copies_left_over,
    deleted_runs_left_over,
    folders_of,
    models_left_over,
    needed_versions,
    weights_stored_twice,
)
from orchestration.resources.leftover_runs import runs_left_over
from orchestration.resources.leftover_work import work_left_over, work_of
from orchestration.resources.leftovers import Kind, Leftover, materialized_in
from orchestration.resources.model_registry import Registry
from orchestration.resources.runs import AT_WORK
from orchestration.resources.tracking import MLflow
from orchestration.resources.workspace import Workspace
from orchestration.settings import Settings

KEEP_WEEKS = 8
WHAT_STAYS = (
    "Versions of models and runs that are younger than so many weeks stay, whether or not anything "
    "refers to them."
)


class Retention(dg.Config):
    """For how long everything stays."""

    keep_weeks: int = Field(default=KEEP_WEEKS, ge=1, description=WHAT_STAYS)


@dataclass(frozen=True)
class Removed:
    """How much of one kind went, or would go."""

    kind: Kind
    count: int
    size: int


def clean(
    settings: Settings,
    instance: dg.DagsterInstance,
    policy: Retention,
    *,
    dry_run: bool = False,
    own_run: str | None = None,
    now: datetime | None = None,
) -> list[Removed]:
    """Remove what nothing refers to.

    What is killed leaves nothing half: whatever leads to a file goes before it, and another call
    removes the rest.

    Args:
        settings: Of the workspace.
        instance: Its history.
        policy: How long everything stays.
        dry_run: Remove nothing.
        own_run: The id of Dagster's run that asks, if one does.
        now: The moment, with a time zone; by default this one.

    Returns:
        A line for every kind.

    Raises:
        CorgiError: the workspace is at work, or MLflow does not answer.
    """
    before = (now or datetime.now(UTC)) - timedelta(weeks=policy.keep_weeks)
    with only_one(instance, settings):
        _check_at_rest(instance, own_run)
        registry = Registry(MLflow.of(settings))
        busy = "a promotion is being decided in this workspace"
        with exclusive_lock(registry.state / LOCK, busy, PATIENCE):
            found = _leftovers(Workspace.of(settings), instance, registry, before)
            if not dry_run:
                for each in found:
                    each.remove()
    return [
        Removed(kind, len(sizes), sum(sizes))
        for kind in Kind
        for sizes in [[each.size for each in found if each.kind is kind]]
    ]


def _check_at_rest(instance: dg.DagsterInstance, own_run: str | None) -> None:
    """Raise CorgiError where a run is at work, by whomever it was started."""
    runs = instance.get_runs(dg.RunsFilter(statuses=AT_WORK))
    at_work = [f"{run.job_name} {run.run_id[:8]}" for run in runs if run.run_id != own_run]
    if at_work:
        raise CorgiError(
            f"nothing is removed while runs are at work: {', '.join(at_work)}",
            "wait until they have ended, or cancel them",
        )


def _leftovers(
    workspace: Workspace, instance: dg.DagsterInstance, registry: Registry, before: datetime
) -> list[Leftover]:
    """All that may go, before anything does."""
    since = int(1000 * before.timestamp())
    present = list(materialized_in(instance, workspace))
    needed = needed_versions(registry, present, since)
    identities = {each.identity for each in present if each.identity is not None}
    identities |= {name for version in needed for name in registry.identities(version)}
    beside = list(folders_of(needed))
    for _, name, folder in work_of(workspace, present):
        if folder.name in identities and is_local(folder):
            beside.append((name, Path(str(folder))))
    return [
        *models_left_over(registry, needed, since),
        *copies_left_over(registry),
        *weights_stored_twice(present, beside),
        *work_left_over(workspace, present, identities),
        *deleted_runs_left_over(registry, since),
        *runs_left_over(instance, before),
    ]
