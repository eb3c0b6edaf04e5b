"""`corgi home`: where Dagster keeps the workspace's history."""

from __future__ import annotations

import typer

from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
)


def home(
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Write Dagster's configuration of the workspace, and print its folder.

    [bold cyan]export DAGSTER_HOME=$(corgi home)[/bold cyan] has `dagster` use what `corgi` uses.
    """
    from orchestration.resources.instance import prepare_home

    settings = chosen_settings(preset, dataset, config, overrides)
    prepare_home(settings)
    typer.echo(settings.dagster_home)
