"""Dagster's instance of a workspace: runs, events and pools, under the workspace's state."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from corgi_core.io.files import atomic_file
from orchestration.settings import Settings

CONFIGURATION = Path(__file__).parents[2] / "infra" / "dagster.yaml"


def prepare_home(settings: Settings) -> Path:
    """The folder of the workspace's Dagster instance, with its configuration."""
    home = settings.dagster_home
    wanted = CONFIGURATION.read_text(encoding="utf-8")
    target = home / "dagster.yaml"
    if not target.exists() or target.read_text(encoding="utf-8") != wanted:
        with atomic_file(target) as temporary:
            temporary.write_text(wanted, encoding="utf-8")
    return home


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The persistent instance."""
    return dg.DagsterInstance.from_config(str(prepare_home(settings)))
