"""Dagster's and MLflow's pages on this machine, started together and stopped together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.error import URLError
from urllib.request import urlopen

import typer

from corgi_core.errors import CorgiError
from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
)

if TYPE_CHECKING:
    from orchestration.settings import Settings

PATIENCE = 90  # seconds until a server answers
FAREWELL = 15  # seconds until a server that was asked to stop is killed


def ui(
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    dagster_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Dagster's port; default: $CORGI_DAGSTER_PORT or 3000."
        ),
    ] = None,
    mlflow_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="MLflow's port; default: $CORGI_MLFLOW_PORT or 5000."),
    ] = None,
) -> None:
    """Serve Dagster (with its daemon) and MLflow on this machine, until Ctrl-C."""
    settings = chosen_settings(
        preset, dataset, config, overrides, dagster_port=dagster_port, mlflow_port=mlflow_port
    )
    raise typer.Exit(serve(settings))


def serve(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM, or until a server ends by itself; returns the exit code."""
    if settings.dagster_port == settings.mlflow_port:
        raise CorgiError(
            f"Dagster and MLflow cannot both be served on port {settings.dagster_port}",
            "choose two ports with --dagster-port and --mlflow-port",
        )
    _check_free("--dagster-port", settings.dagster_port)
    _check_free("--mlflow-port", settings.mlflow_port)
    from orchestration.resources.instance import prepare_home
    from orchestration.settings import AS_TRAINING

    home = prepare_home(settings)
    running: dict[Path, subprocess.Popen[bytes]] = {}  # by log
    try:
        for name, command in _commands(settings).items():
            log = settings.state / f"{name}.log"
            running[log] = _start(command, log, settings, home)
        typer.echo(f"Workspace {settings.workspace}; starting, this takes a moment …")
        pages = {"Dagster": settings.dagster_page, "MLflow": settings.tracking_uri}
        _wait_for(f"{settings.dagster_page}/server_info", running)
        if len(running) > 1:
            pages["MLflow"] = f"{settings.mlflow_page}/#/?{AS_TRAINING}"
            _wait_for(f"{settings.mlflow_page}/health", running)
        for name, page in pages.items():
            typer.echo(f"{name:8} {page}")
        typer.echo("Ctrl-C stops both.")
        while True:
            _check_alive(running)
            time.sleep(1)
    except KeyboardInterrupt:
        typer.echo("Stopping …")
        return 0
    finally:
        _end_all(running.values())


def _commands(settings: Settings) -> dict[str, list[str]]:
    """The servers' command lines by name."""
    from orchestration.settings import HOST

    settings.mlflow_artifacts.mkdir(parents=True, exist_ok=True)
    python = [sys.executable, "-m"]
    commands = {
        "mlflow": [
            *python, "mlflow", "server", "--host", HOST, "--port", str(settings.mlflow_port),
            "--workers", "1", "--backend-store-uri", settings.tracking_uri,
            "--default-artifact-root", settings.mlflow_artifacts.as_uri(),
        ],
        "dagster": [  # webserver, daemon and one code server between them
            *python, "dagster", "dev", "-h", HOST, "-p", str(settings.dagster_port),
            "-m", "orchestration.definitions",
        ],
    }  # fmt: skip
    if not settings.tracking_uri.startswith("sqlite"):
        del commands["mlflow"]  # it runs elsewhere
    return commands


def _start(
    command: list[str], log: Path, settings: Settings, home: Path
) -> subprocess.Popen[bytes]:
    """A child in its own process group, so that its own children end with it."""
    environment = {
        **settings.child_environment(),
        "DAGSTER_HOME": str(home),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        child = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    return child


def _end_all(children: Iterable[subprocess.Popen[bytes]]) -> None:
    """Ask all nicely, then firmly; nothing of their process groups is left."""
    for sign, patience in ((signal.SIGTERM, FAREWELL), (signal.SIGKILL, 5)):
        for child in children:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, sign)
        until = time.monotonic() + patience
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0, until - time.monotonic()))


def _check_free(option: str, port: int) -> None:
    from orchestration.settings import HOST

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise CorgiError(
                f"port {port} is taken ({error.strerror})", f"choose another with {option}"
            ) from error


def _check_alive(running: Mapping[Path, subprocess.Popen[bytes]]) -> None:
    for log, child in running.items():
        if child.poll() is not None:
            raise CorgiError(
                f"{log.stem} ended by itself with code {child.returncode}",
                f"read {log} for the cause",
            )


def _wait_for(address: str, running: Mapping[Path, subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        _check_alive(running)
        try:
            with urlopen(address, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.3)
    raise CorgiError(
        f"{address} does not answer after {PATIENCE} s", "read the logs under the workspace's state"
    )
