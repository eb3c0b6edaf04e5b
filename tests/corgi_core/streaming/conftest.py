"""Tests of processes that a server forks."""

from __future__ import annotations

import pytest

from tests.helpers.processes import start_server


@pytest.fixture(scope="session", autouse=True)
def server() -> None:
    """The server of the other tests, which has imported torch."""
    start_server()
