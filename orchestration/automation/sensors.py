"""Sensors: runs that start when data change. Off until they are switched on."""

import dagster as dg

from orchestration.automation.jobs import EVERYTHING
from orchestration.resources.dvc import INGEST, LOCK, version_in_lock


@dg.sensor(
    job_name=EVERYTHING,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
)
def new_data_version(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """A new digest of the raw data in dvc.lock starts one run of all that depends on it.

    The version at the time when the sensor is first switched on counts as known.
    """
    version = version_in_lock(LOCK, INGEST)
    if version is None:
        return dg.SkipReason(f"{LOCK} records no data yet: run `dvc repro` or `corgi run`")
    if context.cursor is None:
        return dg.SensorResult(skip_reason=f"watching from version {version} on", cursor=version)
    if version == context.cursor:
        return dg.SkipReason(f"the data are still at version {version}")
    request = dg.RunRequest(run_key=version, tags={"corgi/data_version": version})
    return dg.SensorResult(run_requests=[request], cursor=version)
