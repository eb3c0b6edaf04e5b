"""What happens by the clock. Off until somebody switches it on."""

from collections.abc import Iterator

import dagster as dg

from orchestration.automation.jobs import semi_supervised_priors
from orchestration.partitions import semi_supervised
from orchestration.settings import settings


@dg.schedule(
    job=semi_supervised_priors,
    cron_schedule="0 3 * * 1",  # Mondays, 03:00 UTC
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def weekly_semi_supervised_retrain(
    context: dg.ScheduleEvaluationContext,
) -> Iterator[dg.RunRequest]:
    """Retrains the priors that see few captions, one run a partition, once a week."""
    week = context.scheduled_execution_time.strftime("%G-W%V")
    for partition in semi_supervised(settings().preset):
        yield dg.RunRequest(run_key=f"{week} {partition}", partition_key=partition)
