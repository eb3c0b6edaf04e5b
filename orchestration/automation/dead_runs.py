"""Names runs whose process has died, and frees the device that they held, within a minute."""

from __future__ import annotations

import dagster as dg

from orchestration.resources.runs import end_dead_runs


@dg.sensor(
    job_name=None, minimum_interval_seconds=20, default_status=dg.DefaultSensorStatus.RUNNING
)
def dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Ends runs whose process was killed or whose machine lost power, and starts none."""
    ended = end_dead_runs(context.instance)
    return dg.SkipReason(f"ended: {', '.join(ended)}" if ended else "no run has died")
