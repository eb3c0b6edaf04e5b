"""The proxy's process: one server, a port for each page, and who may come in."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

import uvicorn

from corgi_core.errors import CorgiError
from orchestration.proxy.forward import Forward
from orchestration.proxy.guard import Guard, Rules, Server
from orchestration.proxy.metrics import MetricsPage
from orchestration.proxy.users import KnownUsers
from orchestration.settings import Settings

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

FAREWELL = 2  # seconds that open connections have at the end


class ByPort:
    """An ASGI application for each port that one server listens on."""

    def __init__(self, pages: Mapping[int, Server]) -> None:
        self._pages = dict(pages)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request to the page of the port that it came in by."""
        if scope["type"] != "lifespan":
            await self._pages[scope["server"][1]](scope, receive, send)
            return
        await receive()  # the server starts
        await send({"type": "lifespan.startup.complete"})
        await receive()  # it ends
        for page in self._pages.values():
            await page.close()
        await send({"type": "lifespan.shutdown.complete"})


def proxied(settings: Settings, dagster: str, mlflow: str | None) -> dict[int, Server]:
    """The guarded pages by their ports.

    Args:
        settings: Ports, public addresses and users.
        dagster: Where Dagster's webserver listens: unix:PATH or http://HOST:PORT.
        mlflow: The same of MLflow's server; None where it is no page of this proxy.

    Raises:
        CorgiError: settings that would leave a door open, or a password's file without a hash.
    """
    access = settings.access
    access.check()
    users = KnownUsers(access) if access.password_file or access.user_header else None

    def forward(upstream: str, name: str) -> Forward:
        return Forward(upstream, name, hides_password=access.password_file is not None)

    rules = Rules(access.dagster_url, access.hosts, "CORGI_DAGSTER_URL")
    with_metrics = MetricsPage(forward(dagster, "Dagster"), settings)
    pages: dict[int, Server] = {settings.dagster_port: Guard(with_metrics, rules, users)}
    if mlflow is not None:
        rules = Rules(access.mlflow_url, access.hosts, "CORGI_MLFLOW_URL")
        pages[settings.mlflow_port] = Guard(forward(mlflow, "MLflow"), rules, users)
    return pages


def serve(pages: Mapping[int, Server], address: str) -> None:
    """Serve the pages on an address of this machine until SIGINT or SIGTERM.

    Raises:
        CorgiError: a port is taken.
    """
    listeners = [_listening(address, port) for port in pages]
    config = uvicorn.Config(
        ByPort(pages), log_level="warning", access_log=False, lifespan="on", server_header=False,
        proxy_headers=False, date_header=False, timeout_graceful_shutdown=FAREWELL,
        ws_max_size=2**24,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=listeners)


def _listening(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family)
    except OSError as error:
        raise CorgiError(
            f"port {port} of {address} is taken ({error.strerror})", "choose another port"
        ) from error
