"""A Ray cluster of two nodes that have folders of their own, behind a token."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.processes import free_port

HERE = str(Path(__file__).parents[3])
RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, as Ray's sockets need."""
    folder = Path(tempfile.mkdtemp(prefix="corgi-nodes-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def variables(token: Path) -> dict[str, str]:
    return os.environ | {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "PYTHONPATH": HERE,
    }  # fmt: skip


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """The address of a head without CPUs and a node with one, where folder/run is another."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("only root may give a process folders of its own")
    (folder / "token").write_text("a" * 32)
    (folder / "run").mkdir()
    port = free_port()
    address = f"127.0.0.1:{port}"
    memory = "--object-store-memory=80000000"
    head = [
        *RAY, "--head", f"--port={port}", "--num-cpus=0", "--node-ip-address=127.0.0.1", memory,
        "--include-dashboard=false", f"--temp-dir={folder / 'ray'}",
    ]  # fmt: skip
    node = [*RAY, f"--address={address}", "--num-cpus=1", memory]
    apart = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"']
    with (folder / "log").open("w") as log:
        started = []
        for command in (head, [*apart, str(folder / "run"), *node]):
            process = subprocess.Popen(
                command, env=variables(folder / "token"), stdout=log, stderr=log
            )
            started.append(process)
            _wait_for("runtime started", folder / "log", len(started))
    yield address
    for process in started:
        process.kill()  # Ray's reapers then kill what it has started
        process.wait()


def _wait_for(text: str, log: Path, times: int) -> None:
    deadline = time.monotonic() + 60
    while log.read_text().count(text) < times:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


TRAINING = """
    from tests.helpers.tiny import SETTINGS, TinyTask
    compute.train(TinyTask(), SETTINGS, Path(folder), "tiny")
"""
CONNECTING = """
    compute.connect()
"""


def refusal_of(action: str, address: str, folder: Path, token: Path) -> str:
    """What an action on the cluster, by a process of its own, is refused with."""
    script = f"""
from pathlib import Path
from corgi_core.errors import CorgiError
from orchestration.resources.compute import Compute
compute, folder = Compute(address={address!r}), {str(folder)!r}
try:{action}
except CorgiError as refusal:
    print(refusal)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=variables(token) | {"RAY_gcs_server_port_wait_time_s": "1"},  # after one refusal
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_node_without_the_shared_folder_and_a_driver_without_the_token_are_refused(
    folder: Path, address: str
) -> None:
    run, other = folder / "run", folder / "other"
    refusal = refusal_of(TRAINING, address, run, folder / "token")
    assert f"does not share the run folder {run}" in refusal
    assert not (run / "metrics.jsonl").exists()
    other.write_text("b" * 32)
    assert "refuses this process's token" in refusal_of(CONNECTING, address, run, other)
