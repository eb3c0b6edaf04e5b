"""What people and automations start by name."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg

from orchestration.automation.refresh import Refresh
from orchestration.partitions import Partitions
from orchestration.settings import Settings

EVERYTHING, SEMI_SUPERVISED_PRIORS = "everything", "semi_supervised_priors"  # names of the jobs


@dataclass
class _Log:
    """Watches a refresh for the run's log."""

    log: logging.Logger

    def unchanged(self, title: str) -> None:
        self.log.info(f"{title} is up to date")

    @contextmanager
    def doing(self, title: str, reason: str) -> Iterator[None]:
        self.log.info(f"materialising {title}: {reason}")
        yield


def jobs_of(settings: Settings) -> list[Any]:
    """The jobs of one workspace; Dagster does not export the class of those of assets."""

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

    semi_supervised_priors = dg.define_asset_job(
        SEMI_SUPERVISED_PRIORS,
        selection=["prior"],
        partitions_def=Partitions.of(settings.preset).priors,
        description="Train the priors of one or more (variant, caption subset) partitions.",
    )
    return [everything, semi_supervised_priors]
