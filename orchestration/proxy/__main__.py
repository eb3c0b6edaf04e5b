"""The proxy as a process: python -m orchestration.proxy --dagster UPSTREAM [--mlflow UPSTREAM]."""

from __future__ import annotations

import argparse
import sys

from corgi_core.errors import CorgiError


def main() -> int:
    """Serve until SIGINT or SIGTERM; the settings are those of the environment."""
    from orchestration.proxy.server import proxied, serve
    from orchestration.settings import Settings

    parser = argparse.ArgumentParser(prog="python -m orchestration.proxy", description=__doc__)
    where = "unix:PATH or http://HOST:PORT"
    parser.add_argument("--dagster", required=True, help=f"Dagster's webserver: {where}")
    parser.add_argument("--mlflow", help=f"MLflow's server: {where}")
    options = parser.parse_args()
    try:
        settings = Settings.from_environment()
        serve(proxied(settings, options.dagster, options.mlflow), settings.access.listen)
    except CorgiError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
