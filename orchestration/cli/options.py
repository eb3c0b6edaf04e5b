"""Options that several commands share, and the settings that they choose."""

from __future__ import annotations

import os
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


def chosen_settings(preset: str | None, dataset: str | None) -> Settings:
    """Options win over the environment; child processes inherit them."""
    if preset is not None:
        os.environ["CORGI_PRESET"] = preset
    if dataset is not None:
        os.environ["CORGI_DATASET"] = dataset
    from orchestration.settings import settings

    return settings()


def options_of(settings: Settings) -> str:
    """The options that name this workspace on the command line; "" for the default one."""
    from orchestration.settings import DEFAULT_PRESET

    preset = "" if settings.preset.name == DEFAULT_PRESET else f" --preset {settings.preset.name}"
    return preset + (f" --dataset {settings.own_dataset}" if settings.own_dataset else "")
