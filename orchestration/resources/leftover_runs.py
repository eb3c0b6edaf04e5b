"""Runs of Dagster that nothing present comes from, with their events and output."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

import dagster as dg

from orchestration.resources.leftovers import Kind, Leftover, size_of

LATEST = (dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_OBSERVATION)
PAGE = 500  # runs of one request


def runs_left_over(instance: dg.DagsterInstance, before: datetime) -> Iterator[Leftover]:
    """Ended runs that began before a moment, but for those that made what is there now.

    Dagster deletes a run's materializations with it. Those it knows an asset's partition by stay.
    """
    needed = _runs_of_latest_events(instance)
    cursor = None
    while records := instance.get_run_records(
        dg.RunsFilter(created_before=before), limit=PAGE, cursor=cursor
    ):
        for record in records:
            run = record.dagster_run
            if run.is_finished and run.run_id not in needed:
                size = sum(map(_size, _files(instance, run.run_id)))
                remove = partial(_remove, instance, run.run_id)
                yield Leftover(Kind.RUNS, f"{run.job_name} {run.run_id[:8]}", size, remove)
        cursor = records[-1].dagster_run.run_id


def _runs_of_latest_events(instance: dg.DagsterInstance) -> set[str]:
    """The runs with the latest materialization or observation of any partition of any asset."""
    runs = set[str]()
    for key in instance.all_asset_keys():
        if latest := instance.get_latest_materialization_event(key):
            runs.add(latest.run_id)
        if observed := instance.fetch_observations(key, limit=1).records:
            runs.add(observed[0].run_id)
        for kind, fetch in zip(
            LATEST, (instance.fetch_materializations, instance.fetch_observations), strict=True
        ):
            by_partition = instance.event_log_storage.get_latest_storage_id_by_partition(key, kind)
            ids = [number for number in by_partition.values() if number is not None]
            if ids:
                wanted = dg.AssetRecordsFilter(asset_key=key, storage_ids=ids)
                runs |= {record.run_id for record in fetch(wanted, limit=len(ids)).records}
    return runs


def _files(instance: dg.DagsterInstance, run_id: str) -> list[Path]:
    """A run's own database, where events are in SQLite, and its output."""
    root = Path(instance.root_directory)
    databases = [root / "history" / "runs" / f"{run_id}.db{end}" for end in ("", "-wal", "-shm")]
    return [*databases, root / "storage" / run_id]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else size_of(path)


def _remove(instance: dg.DagsterInstance, run_id: str) -> None:
    """Remove a run's output and events, and the run last, by which a next call finds the rest."""
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.event_log_storage.delete_events(run_id)
    for path in _files(instance, run_id):
        if path.is_file():
            path.unlink()
    instance.run_storage.delete_run(run_id)
