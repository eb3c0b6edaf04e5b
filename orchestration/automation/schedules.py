"""What happens by the clock. Off until it is switched on."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from corgi_core.config import Preset
from orchestration.automation.jobs import SEMI_SUPERVISED_PRIORS
from orchestration.partitions import semi_supervised


def weekly_retrain_of(preset: Preset) -> dg.ScheduleDefinition:
    """The schedule that retrains the preset's semi-supervised priors."""

    @dg.schedule(
        job_name=SEMI_SUPERVISED_PRIORS,
        cron_schedule="0 3 * * 1",  # Mondays, 03:00 UTC
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    def weekly_semi_supervised_retrain(
        context: dg.ScheduleEvaluationContext,
    ) -> Iterator[dg.RunRequest]:
        """Retrains the priors with few captions, one run a partition, once a week."""
        week = context.scheduled_execution_time.strftime("%G-W%V")
        for partition in semi_supervised(preset):
            yield dg.RunRequest(run_key=f"{week} {partition}", partition_key=partition)

    return weekly_semi_supervised_retrain
