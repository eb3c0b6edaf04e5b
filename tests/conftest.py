"""What all tests share: no deadlines on property tests, no network, quiet telemetry."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from corgi_core.pipeline import Generator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")

settings.register_profile("corgi", deadline=None, derandomize=True)
settings.load_profile("corgi")


@pytest.fixture(scope="session")
def generator() -> Generator:
    """One tiny generator for all tests."""
    from tests.helpers.tiny_generator import tiny_generator

    return tiny_generator()
