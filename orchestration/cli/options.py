"""Options that several commands share, and the settings that they choose."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestration.settings import Settings

PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help="A row of `corgi presets`; default: $CORGI_PRESET or emoji."),
]
DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", help="Your own data, by the name given to `corgi ingest --name`."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="A YAML file whose settings replace the preset's; default: $CORGI_CONFIG.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SETTING=VALUE",
        help="Replace one setting, such as prior.layers=12; `corgi config show` lists them.",
    ),
]


def chosen_settings(
    preset: str | None,
    dataset: str | None,
    config: Path | None,
    overrides: list[str] | None,
    **ports: int | None,
) -> Settings:
    """The settings of a command's options; they win over the environment."""
    from orchestration.settings import settings_from

    return settings_from(preset, dataset, config, overrides or (), **ports)


def options_of(settings: Settings) -> str:
    """The options that choose these settings on the command line; "" for the default ones."""
    from orchestration.settings import DEFAULT_PRESET

    chosen = settings.choice
    preset = chosen.preset or (settings.base if settings.base != DEFAULT_PRESET else None)
    words = [
        *(("--preset", preset) if preset and not chosen.config else ()),
        *(("--config", str(chosen.config)) if chosen.config else ()),
        *(word for override in chosen.overrides for word in ("--set", override)),
        *(("--dataset", settings.own_dataset) if settings.own_dataset else ()),
    ]
    return "".join(f" {shlex.quote(word)}" for word in words)
