"""What all tests share: markers by folder, no deadlines on property tests, no network.

`unit` tests run in this process and in memory; `integration` tests start processes, Ray, Dagster or
MLflow; `e2e` tests run whole commands in a workspace. A test that needs another marker than its
folder's says so itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from corgi_core.pipeline import CorgiPipeline

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")

TESTS = Path(__file__).parent
MARKERS = ("unit", "integration", "e2e")
MARKER_OF_FOLDER = {"corgi_core": "unit", "e2e": "e2e"}  # of all others: integration

settings.register_profile("corgi", deadline=None, derandomize=True)
settings.load_profile("corgi")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder, and keep the tests of one file in one process.

    All of `e2e` shares a trained workspace, so it is one group; being the longest, it comes first.
    """
    for item in items:
        path = item.path.relative_to(TESTS)
        if not any(item.get_closest_marker(name) for name in MARKERS):
            item.add_marker(MARKER_OF_FOLDER.get(path.parts[0], "integration"))
        item.add_marker(pytest.mark.xdist_group("e2e" if path.parts[0] == "e2e" else str(path)))
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] != "e2e")


@pytest.fixture(scope="session")
def pipeline() -> CorgiPipeline:
    """One tiny pipeline for all tests."""
    from tests.helpers.tiny_pipeline import tiny_pipeline

    return tiny_pipeline()
