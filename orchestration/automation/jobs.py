"""What people and automations start by name."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg

from corgi_core import progress
from orchestration.automation.refresh import Refresh
from orchestration.automation.retention import Retention, clean
from orchestration.automation.retrain import Retrain, retrain
from orchestration.resources.mlflow_rows import remove_rows, why_rows_stay
from orchestration.resources.model_registry import Registry
from orchestration.resources.progress_log import ProgressLog
from orchestration.resources.tracking import RETRAIN_TAG, MLflow
from orchestration.settings import Settings

EVERYTHING, SEMI_SUPERVISED_RETRAIN = "everything", "semi_supervised_retrain"  # names of the jobs
RETENTION = "retention"


@dataclass
class _Log:
    """Watches a refresh for the run's log, which says how far each step is."""

    log: logging.Logger

    def unchanged(self, title: str) -> None:
        self.log.info(f"{title} is up to date")

    @contextmanager
    def doing(self, title: str, reason: str) -> Iterator[None]:
        self.log.info(f"materialising {title}: {reason}")
        with progress.listening(ProgressLog(self.log.info)):
            yield


def jobs_of(settings: Settings) -> list[dg.JobDefinition]:
    """The jobs of one workspace."""

    @dg.op
    def bring_up_to_date(context: dg.OpExecutionContext) -> None:
        """Materialise what is missing or out of date, stage by stage, as `corgi run` does."""
        refresh = Refresh(context.repository_def, context.instance, settings)
        refresh.run(refresh.all_steps(), _Log(context.log))

    @dg.job(
        name=EVERYTHING,
        description="Bring all assets up to date: what is done and unchanged is not done again.",
    )
    def everything() -> None:
        bring_up_to_date()

    @dg.op
    def retrain_priors(context: dg.OpExecutionContext, config: Retrain) -> None:
        """Retrain priors on the present data, and decide who is champion, as `corgi retrain`."""
        refresh = Refresh(context.repository_def, context.instance, settings, kind=RETRAIN_TAG)
        for outcome in retrain(refresh, config, _Log(context.log)):
            context.log.info(outcome.sentence)

    @dg.job(
        name=SEMI_SUPERVISED_RETRAIN,
        description="Bring the data, embeddings and Gaussians up to date, train the priors with "
        "few captions further from their champions, and decide whether they are better.",
    )
    def semi_supervised_retrain() -> None:
        retrain_priors()

    @dg.op
    def remove_leftovers(context: dg.OpExecutionContext, config: Retention) -> None:
        """Remove what nothing refers to, as `corgi gc`."""
        for each in clean(settings, context.instance, config, own_run=context.run_id):
            context.log.info(f"removed {each.kind}: {each.count}, {each.size / 1e6:,.1f} MB")
        if reason := why_rows_stay(settings, Registry(MLflow.of(settings))):
            context.log.info(f"MLflow's rows of deleted runs stay: {reason}")
        else:
            remove_rows(settings, config.keep_weeks)

    @dg.job(
        name=RETENTION,
        description="Remove what nothing refers to: models without an alias that no rollback goes "
        "back to, their work, and old runs.",
    )
    def retention() -> None:
        remove_leftovers()

    return [everything, semi_supervised_retrain, retention]
