"""`corgi ui` without its servers, which tests/e2e starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from corgi_core.errors import CorgiError
from corgi_core.io.locks import exclusive_lock
from orchestration.cli.ui import serve
from orchestration.settings import Settings
from tests.helpers.processes import free_port


def test_a_workspace_is_served_once_so_that_it_has_one_daemon(tmp_path: Path) -> None:
    environment = {"CORGI_HOME": str(tmp_path), "CORGI_DAGSTER_PORT": str(free_port())}
    settings = Settings.from_environment(environment)
    with (
        exclusive_lock(settings.state / "ui.lock", ""),
        pytest.raises(CorgiError, match=f"emoji is served already .process {os.getpid()} on "),
    ):
        serve(settings)
    assert not settings.dagster_home.exists()
