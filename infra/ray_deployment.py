"""`corgi serve` on the machines of a Ray cluster: what `infra/ray_serve.yaml` deploys.

Every replica has its own queue, models and metrics, and follows promotions by itself.
"""

from __future__ import annotations

import os
import platform
from typing import Any

from pydantic import BaseModel
from ray import serve

from orchestration.cli.serve import rules_of, served
from orchestration.settings import settings_from


class Options(BaseModel):
    """The application's `args`.

    Attributes:
        url: The address that people open.
        preset: As of `corgi serve`; the environment has what is not given.
        dataset: Likewise.
        is_open: Serve without a password.
    """

    url: str
    preset: str | None = None
    dataset: str | None = None
    is_open: bool = False


@serve.deployment
@serve.ingress()
class Corgi:
    """The page and the API, on one replica."""

    def __init__(self, options: Options) -> None:
        settings = settings_from(options.preset, options.dataset)
        rules = rules_of(settings, "0.0.0.0", 0, options.url, options.is_open)
        self._served = served(settings, rules, replica=f"{platform.node()}:{os.getpid()}")

    def __serve_build_asgi_app__(self) -> Any:
        return self._served.app

    def check_health(self) -> None:
        """Raise where the replica is to be replaced."""
        if not self._served.engine.is_alive:
            raise RuntimeError("the thread that samples has ended")

    def __del__(self) -> None:
        if hasattr(self, "_served"):
            self._served.watch.stop()
            self._served.engine.stop()


def application(args: dict[str, Any]) -> serve.Application:
    """The application that the configuration names, with its `args`: those of `Options`."""
    return Corgi.bind(Options(**args))  # type: ignore[attr-defined]  # Ray types it as the class
