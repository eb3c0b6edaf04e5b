"""uvicorn around the application: what runs is finished when SIGTERM or Ctrl-C comes."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import uvicorn

from corgi_core.errors import CorgiError
from corgi_core.serving.engine import FAREWELL

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def listening_on(host: str, port: int) -> socket.socket:
    """A socket on an address of this machine; CorgiError where the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise CorgiError(
            f"port {port} of {host} cannot be served ({error.strerror})",
            "choose another with --port, or another address with --host",
        ) from error


def run(app: ASGIApp, listener: socket.socket) -> None:
    """Serve until a signal comes; requests that run have some seconds to be answered."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", ws="none",
        timeout_graceful_shutdown=int(FAREWELL), server_header=False, proxy_headers=False,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])
