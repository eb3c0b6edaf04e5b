"""Dagster's webserver on a Unix socket, which no browser reaches: python -m … SOCKET OPTIONS.

A page in a browser can ask any port of this machine, so an unguarded webserver has none. Dagster
1.13.27 serves on ports alone; what it gives to uvicorn is changed here. OPTIONS are those of
`dagster-webserver`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    from dagster_webserver import cli

    socket = sys.argv.pop(1)
    serve = uvicorn.run

    def serve_on_socket(app: ASGIApp, log_level: str, **_: Any) -> None:
        serve(app, uds=socket, log_level=log_level)

    uvicorn.run = serve_on_socket  # type: ignore[assignment]
    cli.main()


if __name__ == "__main__":
    main()
