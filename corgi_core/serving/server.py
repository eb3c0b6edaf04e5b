"""uvicorn around the application: what runs is finished when SIGTERM or Ctrl-C comes."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import uvicorn

from corgi_core.errors import CorgiError
from corgi_core.serving.engine import FAREWELL, Engine

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


class _Server(uvicorn.Server):
    """uvicorn, which has the engine finish or give up what is waited for before it ends."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no connections, answer what was asked for, and end."""
        stopping = asyncio.create_task(asyncio.to_thread(self._engine.stop))
        await super().shutdown(sockets)
        await stopping


def run(app: ASGIApp, engine: Engine, listener: socket.socket) -> None:
    """Serve until a signal comes.

    What was accepted then has `FAREWELL` seconds; what is not made by then is answered with 503.

    Args:
        app: The application.
        engine: Samples for it, and is stopped.
        listener: Of `listening_on`.
    """
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", ws="none",
        timeout_graceful_shutdown=int(FAREWELL) + 2, server_header=False, proxy_headers=False,
    )  # fmt: skip
    _Server(config, engine).run(sockets=[listener])
