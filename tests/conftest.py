"""What all tests share: markers by folder, no deadlines on property tests, no network.

`unit` tests run in this process and in memory; `integration` tests start processes, Ray, Dagster or
MLflow; `e2e` tests run whole commands in a workspace. A test that needs another marker than its
folder's says so itself.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

import corgi_core  # noqa: F401  # before a test imports open_clip, which needs torchvision
from tests.helpers.quick_sqlite import spare_the_disk

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

    from corgi_core.pipeline import CorgiPipeline
    from tests.helpers.s3 import S3

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
# Tests run side by side: none waits for the device, nor do Ray's workers for all other processes.
os.environ.setdefault("CORGI_DEVICE_LOCK", "off")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default is 15

TESTS = Path(__file__).parent
MARKERS = ("unit", "integration", "e2e")
MARKER_OF_FOLDER = {"corgi_core": "unit", "e2e": "e2e"}  # of all others: integration

settings.register_profile("corgi", deadline=None, derandomize=True)
settings.load_profile("corgi")
spare_the_disk()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder; short ones come last, which keeps all workers busy."""
    for item in items:
        if not any(item.get_closest_marker(name) for name in MARKERS):
            folder = item.path.relative_to(TESTS).parts[0]
            item.add_marker(MARKER_OF_FOLDER.get(folder, "integration"))
    items.sort(
        key=lambda item: [item.get_closest_marker(name) is None for name in reversed(MARKERS)]
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """The tests of one file run in one process, and so do all that share e2e's workspace."""
    from xdist.scheduler import LoadFileScheduling

    class ByWorkspace(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "e2e" if nodeid.startswith("tests/e2e/") else super()._split_scope(nodeid)

    return ByWorkspace(config, log)


@pytest.fixture(scope="session")
def pipeline() -> CorgiPipeline:
    """One tiny pipeline for all tests."""
    from tests.helpers.tiny_pipeline import tiny_pipeline

    return tiny_pipeline()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    """moto's S3 server, a process of its own, for all tests of this process."""
    from tests.helpers.s3 import serving

    with serving() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The S3 server, which this process and its children reach by their environment."""
    from s3fs import S3FileSystem

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # they remember the endpoint
    yield s3_server
    S3FileSystem.clear_instance_cache()


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """Readers and kinds of decoders that a test registers are gone after it."""
    from corgi_core.config import DECODER_SETTINGS
    from corgi_core.data.formats import READERS
    from corgi_core.decoders import registry

    registered = [(names, dict(names)) for names in (DECODER_SETTINGS, READERS, registry._KINDS)]
    yield
    for names, before in registered:
        for name in names.keys() - before:
            del names[name]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As other processes of a test have: sums of more threads have other roundings."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)  # a worker may be leaving yet
