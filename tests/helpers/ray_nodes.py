"""A Ray cluster of several nodes on this machine, each with folders of its own, behind a token."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from orchestration.resources.compute import LOCAL_ENVIRONMENT
from tests.helpers.patience import PATIENCE
from tests.helpers.processes import free_port

HERE = str(Path(__file__).parents[2])
RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
MEMORY = "--object-store-memory=80000000"
APART = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"']
FAST = {  # a dead node is noticed after seconds
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "2",
}


@dataclass
class Nodes:
    """A running cluster.

    Attributes:
        folder: Holds Ray's session, the token, the log, and `own`, which is another folder on each
            node.
        variables: The environment of its processes.
        address: Of its head.
        processes: The head, which has no CPUs, and the nodes, which have one each.
    """

    folder: Path
    variables: Mapping[str, str]
    address: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def own(self) -> Path:
        """A path that is another folder on each node."""
        return self.folder / "own"

    def start(self, *command: str) -> None:
        """Start one more node, or the head, and wait until it runs."""
        with (self.folder / "log").open("a") as log:
            before = self._running()
            process = subprocess.Popen(command, env=self.variables, stdout=log, stderr=log)
            self.processes.append(process)
        deadline = time.monotonic() + PATIENCE
        while self._running() == before:
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.1)

    def start_node(self) -> None:
        """Start a node with one CPU, whose temporary files lie in its own folder."""
        node = [*RAY, f"--address={self.address}", "--num-cpus=1", MEMORY]
        self.start(*APART, str(self.own), "env", f"TMPDIR={self.own}", *node)

    def _running(self) -> int:
        return (self.folder / "log").read_text().count("runtime started")

    def node_of(self, title: str) -> int | None:
        """The number of the node where a process with such a title runs."""
        for number, process in enumerate(self.processes):
            if any(title in name for name in map(_title, _below(process))):
                return number
        return None

    def kill(self, number: int) -> None:
        """Kill a node: its raylet, its workers and all else that it has started."""
        for process in [
            *_below(self.processes[number]),
            psutil.Process(self.processes[number].pid),
        ]:
            process.kill()
        self.processes[number].wait()


def _below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@contextmanager
def nodes(folder: Path, count: int, **variables: str) -> Iterator[Nodes]:
    """Run a head without CPUs and nodes with one each, where folder/own is another folder each.

    `folder` has a short path, as Ray's sockets need.
    """
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("only root may give a process folders of its own")
    (folder / "token").write_text("a" * 32)
    (folder / "own").mkdir()
    (folder / "log").touch()
    port = free_port()
    environment = os.environ | FAST | variables | {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "PYTHONPATH": HERE,
    }  # fmt: skip
    environment = {  # not that of a local Ray, which an earlier test may have started here
        name: value for name, value in environment.items() if name not in LOCAL_ENVIRONMENT
    }
    cluster = Nodes(folder, environment, f"127.0.0.1:{port}")
    try:
        cluster.start(
            *RAY, "--head", f"--port={port}", "--num-cpus=0", "--node-ip-address=127.0.0.1", MEMORY,
            "--include-dashboard=false", f"--temp-dir={folder / 'ray'}",
        )  # fmt: skip
        for _ in range(count):
            cluster.start_node()
        yield cluster
    finally:
        for process in cluster.processes:
            process.kill()  # Ray's reapers then kill what it has started
            process.wait()
