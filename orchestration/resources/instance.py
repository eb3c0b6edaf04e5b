"""Dagster's instance of a workspace: runs, events and pools, under the workspace's state."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from corgi_core.io.files import atomic_file
from orchestration.settings import Settings

CONFIGURATION = Path(__file__).parents[2] / "infra" / "dagster.yaml"


def prepare_home(settings: Settings) -> Path:
    """Make the workspace's DAGSTER_HOME, for this process and its children."""
    home = settings.dagster_home
    wanted = CONFIGURATION.read_text(encoding="utf-8")
    target = home / "dagster.yaml"
    if not target.exists() or target.read_text(encoding="utf-8") != wanted:
        with atomic_file(target) as temporary:
            temporary.write_text(wanted, encoding="utf-8")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The persistent instance."""
    prepare_home(settings)
    return dg.DagsterInstance.get()
