"""Rows of what was deleted in MLflow: its own command removes them, where nobody else is concerned.

`mlflow gc` removes deleted runs and logged models with their files, and deleted experiments whole,
of everybody who uses the database. So Corgi runs it on a database of its own home alone, and where
nothing that is still in use would go.
"""

from __future__ import annotations

import subprocess
import sys

from corgi_core.errors import CorgiError
from orchestration.environment import NO_TELEMETRY
from orchestration.resources.model_registry import Registry
from orchestration.settings import SQLITE, Settings, sqlite_path


def why_rows_stay(settings: Settings, registry: Registry) -> str:
    """Why `mlflow gc` is left to people; "" where it harms nobody."""
    own = settings.tracking_uri.startswith(SQLITE)
    if not own or not sqlite_path(settings.tracking_uri).is_relative_to(settings.home):
        return "others may use the database"
    if deleted := registry.deleted_experiments():
        return f"it would remove deleted experiments whole: {', '.join(deleted)}"
    if versions := registry.versions_of_the_deleted():
        return f"it would remove the files of registered versions: {', '.join(versions)}"
    return ""


def remove_rows(settings: Settings, keep_weeks: int) -> None:
    """Remove the rows of runs and logged models that were deleted so many weeks ago or earlier.

    Raises:
        CorgiError: MLflow's command failed.
    """
    command = [sys.executable, "-m", *command_of(settings, keep_weeks)]
    environment = settings.child_environment() | NO_TELEMETRY
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CorgiError(
            f"`mlflow gc` failed: {last}",
            "nothing of Corgi's depends on the rows; see to MLflow's database, and try again",
        )


def command_of(settings: Settings, keep_weeks: int) -> list[str]:
    """The words of MLflow's command."""
    database = settings.mlflow_database or "DATABASE_OF_THE_SERVER"
    return [
        "mlflow", "gc", "--older-than", f"{7 * keep_weeks}d", "--backend-store-uri", database,
        "--tracking-uri", settings.tracking_uri,
    ]  # fmt: skip
