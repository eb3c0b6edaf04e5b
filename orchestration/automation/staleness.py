"""What Dagster itself says is stale: the one file that imports what Dagster does not export.

Dagster 1.13 exports neither the resolver behind the web page's "unsynced" labels, nor the tag of a
data version, nor the error of a failed check, nor all runs' evaluations of checks in the order of
the event log; all four are taken from `dagster._core`, checked against 1.13.27 (pyproject.toml
keeps below 1.14).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.data_version import (
    DATA_VERSION_TAG,
    CachingStaleStatusResolver,
    StaleStatus,
)
from dagster._core.errors import DagsterAssetCheckFailedError as DagsterAssetCheckFailedError
from dagster._core.loader import LoadingContext
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

NEW_DATA_VERSION = "has a new dependency data version"  # Dagster's words

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph as AssetGraph


class _Reading(LoadingContext):
    """Caches the instance's records for one question."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance, self._loaders = instance, dict[type, Any]()

    @property
    def instance(self) -> dg.DagsterInstance:
        return self._instance

    @property
    def loaders(self) -> dict[type, Any]:
        return self._loaders


def staleness(
    graph: AssetGraph, asset: dg.AssetKey, partition: str | None, instance: dg.DagsterInstance
) -> str | None:
    """Why that partition must be materialised; None where settings and inputs are as they were."""
    resolver = CachingStaleStatusResolver(instance, graph, _Reading(instance))
    status = resolver.get_status(asset, partition)
    if status == StaleStatus.MISSING:
        return "missing"
    if status == StaleStatus.STALE:
        causes = resolver.get_stale_causes(asset, partition)
        return "; ".join(dict.fromkeys(cause.reason for cause in causes))
    return None


def evaluations(
    instance: dg.DagsterInstance, after: int | None, limit: int, ascending: bool = True
) -> list[dg.EventLogRecord]:
    """The evaluations of checks in all runs, by their storage ids.

    An evaluation has its storage id when it ends. The id in a check's own history it has from its
    run's plan on, so that order is not the one of what happened.

    Args:
        instance: Dagster's history.
        after: The storage id behind which they are; None: all.
        limit: How many at most.
        ascending: Whether the oldest come first.
    """
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage), "SQLite and PostgreSQL are such"
    wanted = dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION, after_cursor=after)
    # That of SQLite reads each run's own file; the index, which has the evaluations too, is ours.
    found = SqlEventLogStorage.get_event_records(storage, wanted, limit, ascending)
    return list(found)


def data_version(instance: dg.DagsterInstance, asset: dg.AssetKey) -> str | None:
    """The data version of what was materialised last of an unpartitioned asset."""
    event = instance.get_latest_materialization_event(asset)
    materialization = event.asset_materialization if event else None
    return (materialization.tags or {}).get(DATA_VERSION_TAG) if materialization else None


def observed_version(instance: dg.DagsterInstance, asset: dg.AssetKey) -> str | None:
    """The data version that was observed last of an asset that Dagster does not make."""
    found = instance.fetch_observations(asset, limit=1).records
    observation = found[0].asset_observation if found else None
    return (observation.tags or {}).get(DATA_VERSION_TAG) if observation else None


def observation(asset: dg.AssetKey, version: str) -> dg.AssetObservation:
    """That an asset which Dagster does not make has this data version."""
    return dg.AssetObservation(asset, tags={DATA_VERSION_TAG: version})


def checks_hold(graph: AssetGraph, asset: dg.AssetKey, instance: dg.DagsterInstance) -> bool:
    """Whether all checks of an unpartitioned asset passed, or warned, on what is there now."""
    latest = instance.get_latest_materialization_event(asset)
    return all(
        evaluation is not None
        and (evaluation.passed or evaluation.severity == dg.AssetCheckSeverity.WARN)
        and latest is not None
        and evaluation.target_materialization_data is not None
        and evaluation.target_materialization_data.run_id == latest.run_id
        for evaluation in _evaluations(graph, asset, instance)
    )


def failures(graph: AssetGraph, asset: dg.AssetKey, instance: dg.DagsterInstance) -> str:
    """What the asset's failed checks say."""
    evaluations = _evaluations(graph, asset, instance)
    return "; ".join(e.description or e.check_name for e in evaluations if e and not e.passed)


def _evaluations(
    graph: AssetGraph, asset: dg.AssetKey, instance: dg.DagsterInstance
) -> list[dg.AssetCheckEvaluation | None]:
    """The latest evaluation of every check of the asset; None for one never evaluated."""
    if not (keys := list(graph.get_check_keys_for_assets({asset}))):
        return []
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    events = [records[key].event if key in records else None for key in keys]
    return [event.asset_check_evaluation if event else None for event in events]


def end_interrupted_runs(instance: dg.DagsterInstance, tags: dict[str, str]) -> None:
    """End the runs that a killed process left as running, and free their slots in the pool."""
    unfinished = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    for run in instance.get_runs(dg.RunsFilter(tags=tags, statuses=unfinished)):
        instance.report_run_failed(run, "interrupted; the next run goes on from there")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
