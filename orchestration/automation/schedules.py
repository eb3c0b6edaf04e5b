"""What happens by the clock. Off until it is switched on."""

from __future__ import annotations

import dagster as dg

from corgi_core.errors import CorgiError
from orchestration.automation.jobs import RETENTION, SEMI_SUPERVISED_RETRAIN
from orchestration.automation.retrain import Retrain
from orchestration.resources.source_data import SourceData
from orchestration.settings import Settings


def weekly_retrain_of(settings: Settings) -> dg.ScheduleDefinition:
    """The schedule that retrains the workspace's semi-supervised priors."""

    @dg.schedule(
        job_name=SEMI_SUPERVISED_RETRAIN,
        cron_schedule="0 3 * * 1",  # Mondays, 03:00 UTC
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    def weekly_semi_supervised_retrain(
        context: dg.ScheduleEvaluationContext,
    ) -> dg.RunRequest | dg.SkipReason:
        """Retrains the priors with few captions from their champions, in one run a week."""
        if problem := SourceData.of(settings).problem:
            return dg.SkipReason(f"nothing can be retrained: {problem}")
        try:
            Retrain().priors(settings)
        except CorgiError as error:
            return dg.SkipReason(f"nothing can be retrained: {error}")
        return dg.RunRequest(run_key=context.scheduled_execution_time.strftime("%G-W%V"))

    return weekly_semi_supervised_retrain


def weekly_retention() -> dg.ScheduleDefinition:
    """The schedule that removes once a week what nothing refers to."""
    return dg.ScheduleDefinition(
        name="weekly_retention",
        job_name=RETENTION,
        cron_schedule="0 2 * * 1",  # Mondays, 02:00 UTC, before the retrain
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Removes models, work and runs that nothing refers to.",
    )
