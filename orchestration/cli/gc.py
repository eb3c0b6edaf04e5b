"""`corgi gc`: what nothing refers to is removed, and how much that is."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
)

if TYPE_CHECKING:
    from orchestration.automation.retention import Removed
    from orchestration.settings import Settings


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    keep_weeks: Annotated[
        int | None,
        typer.Option(
            "--keep-weeks",
            min=1,
            help="Models and runs that are younger stay in any case; default: 8.",
        ),
    ] = None,
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Remove what a workspace stores and nothing refers to: old models, their work, old runs.

    What is materialised, has an alias, or was champion shortly before stays. What was unchanged is
    unchanged afterwards. Nothing is removed while a run is at work.

    [bold cyan]corgi gc --dry-run[/bold cyan]
    """
    settings = chosen_settings(preset, dataset, config, overrides)
    if not settings.dagster_home.is_dir():
        typer.echo(f"There is no workspace {settings.workspace} yet.")
        return
    from orchestration.automation.retention import Retention, clean
    from orchestration.resources.instance import open_instance
    from orchestration.resources.mlflow_rows import remove_rows, why_rows_stay
    from orchestration.resources.model_registry import Registry
    from orchestration.resources.tracking import MLflow

    policy = Retention() if keep_weeks is None else Retention(keep_weeks=keep_weeks)
    with open_instance(settings) as instance:
        for line in lines_of(clean(settings, instance, policy, dry_run=dry_run)):
            typer.echo(line)
    typer.echo("Nothing was removed: --dry-run." if dry_run else "Removed.")
    registry = Registry(MLflow.of(settings))
    if reason := why_rows_stay(settings, registry):
        if deleted := len(registry.deleted_runs()):
            typer.echo(rows_left(settings, deleted, policy.keep_weeks, reason))
    elif not dry_run:
        remove_rows(settings, policy.keep_weeks)


def rows_left(settings: Settings, deleted: int, keep_weeks: int, reason: str) -> str:
    """What removes the rows of runs that people deleted in MLflow, and why that is left to them."""
    from orchestration.resources.mlflow_rows import command_of

    return (
        f"The rows of {deleted:,} deleted runs of this workspace stay in MLflow's database. "
        "MLflow's command removes the deleted runs and whole deleted experiments of all who use "
        f"that database, where they were deleted {keep_weeks} weeks ago or earlier. It is left to "
        f"you, as {reason}:\n{shlex.join(command_of(settings, keep_weeks))}"
    )


def lines_of(removed: Sequence[Removed]) -> list[str]:
    """A table: what, how many, megabytes; and the sum of these."""
    rows = [(str(each.kind), f"{each.count:,}", f"{each.size / 1e6:,.1f}") for each in removed]
    rows.append(("", "", f"{sum(each.size for each in removed) / 1e6:,.1f}"))
    width = max(len(kind) for kind, *_ in rows)
    return [
        f"{what:{width}}  {count:>7}  {size:>11}"
        for what, count, size in [("what", "how many", "MB"), *rows]
    ]
