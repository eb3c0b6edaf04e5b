"""Sensors: runs that start when data change. Off until they are switched on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from corgi_core.errors import CorgiError
from orchestration.automation.jobs import EVERYTHING, SEMI_SUPERVISED_RETRAIN
from orchestration.automation.new_data import change_of
from orchestration.automation.retrain import Retrain
from orchestration.resources.runs import was_interrupted
from orchestration.resources.source_data import SourceData
from orchestration.settings import Settings

VERSION_TAG = "corgi/data_version"  # of the runs that the sensor starts
SINCE_TAG = "corgi/since"  # … when the version before was handled, as the cursor has it
FIRST_WAIT, LONGEST_WAIT = timedelta(minutes=10), timedelta(days=1)  # before another attempt
SUCCEEDED, FAILED = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE
CANCELLED = dg.DagsterRunStatus.CANCELED


@dataclass(frozen=True)
class Handled:
    """The sensor's cursor: the version that was handled last, and when, in seconds since 1970.

    When is a name, by which the runs since then are known: the clock may be put back.
    """

    version: str
    since: float

    @classmethod
    def now(cls, version: str) -> Handled:
        """That the version is handled from this moment on."""
        return cls(version, datetime.now(UTC).timestamp())

    @classmethod
    def read(cls, cursor: str | None) -> Handled | None:
        """What `written` wrote; None where there is none, or one of another version of Corgi."""
        try:
            return cls(**json.loads(cursor or ""))
        except (ValueError, TypeError):
            return None

    @property
    def name(self) -> str:
        """Of this moment, in runs' tags."""
        return f"{self.since:.6f}"

    @property
    def written(self) -> str:
        """As the cursor."""
        return json.dumps(asdict(self))


def new_data_sensor_of(settings: Settings, jobs: Sequence[dg.JobDefinition]) -> dg.SensorDefinition:
    """The sensor that starts one run of one of the jobs for each new version of the data."""

    @dg.sensor(
        name="new_data_version",
        jobs=jobs,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    def new_data_version(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """Retrains the semi-supervised priors on new data; all, where there is no champion yet.

        One run succeeds for each version. The version when the sensor is first switched on counts
        as known. A run that fails is tried again, after ten minutes, twenty and so on up to a day;
        one that ended with its servers at the next tick; one that a person cancels is not.
        """
        return tick(context.instance, context.cursor, settings)

    return new_data_version


def tick(instance: dg.DagsterInstance, cursor: str | None, settings: Settings) -> dg.SensorResult:
    """What the sensor decides: a run, or why there is none, and the new cursor.

    The cursor moves to a version when a run of it has succeeded, or was cancelled by a person; so
    no version is lost to a failure, a busy workspace or a tick that was not recorded.
    """
    handled = Handled.read(cursor)
    found = SourceData.of(settings, handled.version if handled else None)
    version = found.version
    if version is None:
        return dg.SensorResult(skip_reason=found.problem)
    changes = change_of(instance, version)
    if handled is None:
        return dg.SensorResult(
            skip_reason=f"watching from version {version} on",
            cursor=Handled.now(version).written,
            asset_events=changes,
        )
    if version == handled.version:
        return dg.SensorResult(skip_reason=f"the data are still at version {version}")
    tags = {VERSION_TAG: version, SINCE_TAG: handled.name}
    runs = instance.get_run_records(dg.RunsFilter(tags=tags))  # the newest first
    if runs and _is_handled(runs[0].dagster_run):
        how = runs[0].dagster_run.status.value.lower()
        return dg.SensorResult(
            skip_reason=f"version {version} is handled: run {runs[0].dagster_run.run_id} ({how})",
            cursor=Handled.now(version).written,
            asset_events=changes,
        )
    if waiting := _reason_to_wait(runs):
        return dg.SensorResult(skip_reason=waiting, asset_events=changes)
    last = (
        runs[0].dagster_run.run_id if runs else "none"
    )  # a count would repeat as runs are deleted
    request = dg.RunRequest(
        run_key=f"{version} after {handled.name}, after run {last}",
        job_name=_job(settings),
        tags=tags,
    )
    return dg.SensorResult(run_requests=[request], asset_events=changes)


def _is_handled(run: dg.DagsterRun) -> bool:
    """Whether a run has succeeded, or a person has cancelled it."""
    return run.status == SUCCEEDED or (run.status == CANCELLED and not was_interrupted(run))


def _reason_to_wait(runs: Sequence[dg.RunRecord]) -> str:
    """Why no attempt is made now: one goes on, or the last has just failed; "" where one is due."""
    if not runs or was_interrupted(runs[0].dagster_run):
        return ""
    last = runs[0]
    if last.dagster_run.status != FAILED:
        return f"run {last.dagster_run.run_id} is at work on it"
    failed = last.update_timestamp.replace(tzinfo=UTC)
    due = failed + min(FIRST_WAIT * 2 ** (len(runs) - 1), LONGEST_WAIT)
    if failed <= datetime.now(UTC) < due:  # a failure that is yet to come is of a clock put back
        return f"run {last.dagster_run.run_id} failed; the next attempt is at {due:%F %R} UTC"
    return ""


def _job(settings: Settings) -> str:
    """The retrain; all that depends on the data, where nothing can be retrained yet."""
    try:
        Retrain().priors(settings)
    except CorgiError:
        return EVERYTHING
    return SEMI_SUPERVISED_RETRAIN
