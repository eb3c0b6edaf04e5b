"""Dagster's and MLflow's pages on this machine, started together and stopped together.

Browsers reach the proxy alone: the servers behind it listen on Unix sockets in a folder that no
other user of the machine can enter.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from corgi_core.errors import CorgiError
from orchestration.access import LOOPBACK_NAMES
from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
)
from orchestration.environment import NO_TELEMETRY

if TYPE_CHECKING:
    from orchestration.settings import Settings

PATIENCE = 90  # seconds until a server answers
HOST = LOOPBACK_NAMES[0]
SERVERS = ("code", "dagster", "mlflow")  # those with sockets
CODE = "orchestration.definitions"  # the code location
SOCKETS = "corgi-ui-"  # their folder's name; a socket's path is short
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
    settings.access.check()
    _check_free("--dagster-port", settings.dagster_port, settings.access.listen)
    _check_free("--mlflow-port", settings.mlflow_port, settings.access.listen)
    from corgi_core.io.locks import exclusive_lock
    from corgi_core.io.scratch import scratch_folder
    from orchestration.resources.log_rotation import rotate
    from orchestration.settings import AS_TRAINING

    running: dict[Path, subprocess.Popen[bytes]] = {}  # by log
    alone = exclusive_lock(settings.state / "ui.lock", f"{settings.workspace} is served already")
    with alone, scratch_folder(SOCKETS, Path(tempfile.gettempdir())) as sockets:
        home, servers = _prepared_home(settings), _Servers(settings, sockets)
        try:
            typer.echo(f"Workspace {settings.workspace}; starting, this takes a moment …")
            for name, command in servers.commands().items():
                log = settings.state / f"{name}.log"
                running[log] = _start(command, log, settings, home)
                if name == "code":  # which the others ask as they start
                    _wait_for(servers.socket(name).exists, log, running)
            pages = {"Dagster": settings.dagster_page, "MLflow": settings.tracking_uri}
            if servers.has_mlflow:
                pages["MLflow"] = f"{settings.mlflow_page}/#/?{AS_TRAINING}"
            for log in running:
                if log.stem in SERVERS:
                    _wait_for(servers.socket(log.stem).exists, log, running)
            _wait_for(partial(_answers, settings), settings.state / "proxy.log", running)
            for name, page in pages.items():
                typer.echo(f"{name:8} {page}")
            typer.echo("Ctrl-C stops both.")
            while True:
                _check_alive(running)
                for log in running:
                    rotate(log)
                time.sleep(1)
        except KeyboardInterrupt:
            typer.echo("Stopping …")
            return 0
        finally:
            _end_all(running.values())


def _prepared_home(settings: Settings) -> Path:
    """The folder of Dagster's instance, in which dead runs are ended, beside MLflow's database."""
    from orchestration.resources.instance import open_instance, prepare_home
    from orchestration.resources.runs import end_dead_runs
    from orchestration.resources.tracking import MLflow
    from orchestration.settings import SQLITE, sqlite_path

    home = prepare_home(settings)
    with open_instance(settings) as instance:
        end_dead_runs(instance)
    if settings.tracking_uri.startswith(SQLITE) and not sqlite_path(settings.tracking_uri).exists():
        MLflow.of(settings).client()  # makes the tables, which two processes must not do at once
    return home


def password(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the password's hash goes.")],
) -> None:
    """Choose the password that the pages of [bold cyan]corgi ui[/bold cyan] ask for.

    Its hash is stored in FILE; then set CORGI_PASSWORD_FILE=FILE.
    """
    from orchestration.proxy.passwords import store_password

    given = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    store_password(given, file)
    typer.echo(f"Its hash is in {file}. The pages ask for it with CORGI_PASSWORD_FILE={file}")


@dataclass(frozen=True)
class _Servers:
    """The processes of `corgi ui`.

    Attributes:
        settings: The workspace.
        sockets: The folder of the sockets by which they reach each other.
    """

    settings: Settings
    sockets: Path

    def socket(self, name: str) -> Path:
        """The socket of one of SERVERS; it is there when the server answers."""
        return self.sockets / name

    @property
    def has_mlflow(self) -> bool:
        """Whether MLflow's server is one of them; else it runs elsewhere."""
        return not self.settings.mlflow_is_served

    def commands(self) -> dict[str, list[str]]:
        """The command lines by name, in the order of their start."""
        settings, workspace = self.settings, self.sockets / "workspace.yaml"
        code, dagster, mlflow = map(self.socket, SERVERS)
        server = {"socket": str(code), "location_name": CODE}
        workspace.write_text(json.dumps({"load_from": [{"grpc_server": server}]}), encoding="utf-8")
        python = [sys.executable, "-m"]
        commands: dict[str, list[object]] = {}
        if self.has_mlflow:
            settings.mlflow_artifacts.mkdir(parents=True, exist_ok=True)
            commands["mlflow"] = [
                *python, "mlflow", "server", "--uvicorn-opts", f"--uds {shlex.quote(str(mlflow))}",
                "--workers", 1, "--backend-store-uri", settings.tracking_uri,
                "--default-artifact-root", settings.mlflow_artifacts.as_uri(),
                "--allowed-hosts", ",".join(self._hosts()),
            ]  # fmt: skip
        commands |= {
            "code": [*python, "dagster", "code-server", "start", "-m", CODE, "--socket", code],
            "daemon": [*python, "dagster._daemon", "run", "-w", workspace],
            "dagster": [
                *python, "orchestration.proxy.webserver", dagster, "-w", workspace,
                "-p", settings.dagster_port,
            ],
            "proxy": [
                *python, "orchestration.proxy", "--dagster", f"unix:{dagster}",
                *(("--mlflow", f"unix:{mlflow}") if self.has_mlflow else ()),
            ],
        }  # fmt: skip
        return {name: [str(word) for word in words] for name, words in commands.items()}

    def _hosts(self) -> list[str]:
        """What MLflow may be asked as: it checks the Host that the proxy has let through again."""
        url = self.settings.access.mlflow_url
        names = [*LOOPBACK_NAMES, *self.settings.access.hosts]
        names += [urlsplit(url).hostname or ""] if url else []
        return [pattern for name in names for pattern in (name, f"{name}:*")]


def _start(
    command: list[str], log: Path, settings: Settings, home: Path
) -> subprocess.Popen[bytes]:
    """A child in its own process group, so that its own children end with it."""
    environment = {
        **settings.child_environment(),
        **NO_TELEMETRY,
        "DAGSTER_HOME": str(home),
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


def _local_address(settings: Settings) -> str:
    """The address under which this machine itself reaches the pages."""
    everywhere = ("0.0.0.0", "::")
    return HOST if settings.access.listen in everywhere else settings.access.listen


def _check_free(option: str, port: int, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
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


def _answers(settings: Settings) -> bool:
    """Whether the proxy does."""
    connection = HTTPConnection(_local_address(settings), settings.dagster_port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


def _wait_for(
    is_there: Callable[[], bool], log: Path, running: Mapping[Path, subprocess.Popen[bytes]]
) -> None:
    until = time.monotonic() + PATIENCE
    while not is_there():
        _check_alive(running)
        if time.monotonic() > until:
            raise CorgiError(
                f"{log.stem} does not answer after {PATIENCE} s", f"read {log} for the cause"
            )
        time.sleep(0.1)
