"""The services of infra/compose.yaml as processes of this machine.

They share a network of their own, in which every service's name leads to its loopback, and a tree
of mounts with the paths of the containers. So each runs by the command and with the environment in
the file, unchanged.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import postgres
from tests.helpers.patience import PATIENCE

ROOT = Path(__file__).parents[2]
FILE = ROOT / "infra" / "compose.yaml"
PATH = os.pathsep.join([str(Path(sys.executable).parent), "/usr/sbin", "/usr/bin", "/sbin", "/bin"])
SECRETS = {
    "pgpass": f"postgres:5432:*:{postgres.USER}:{postgres.PASSWORD.replace(':', chr(92) + ':')}\n",
    "aws": "[default]\naws_access_key_id = testing\naws_secret_access_key = testing\n",
    "ray_token": "r" * 64,
}
POD = """
mount --make-rprivate / && ip link set lo up && mount --bind "$1/hosts" /etc/hosts &&
mount -t tmpfs tmpfs /run && mkdir -m 777 /run/postgresql && mkdir /run/corgi &&
mkdir /run/secrets && mount --bind "$1/secrets" /run/secrets && cp "$2" /run/corgi/workspace.yaml &&
mount --bind "$1/state" /var/lib && mkdir /var/lib/corgi &&
mount --bind "$1/backups" /var/backups && mkdir /var/backups/corgi && echo ready && exec sleep 3600
"""


def compose() -> dict[str, Any]:
    """The file, with the defaults of its variables filled in."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", FILE.read_text(encoding="utf-8"))
    found: dict[str, Any] = yaml.safe_load(text)
    return found


PORTS = {
    "code": 4000, "webserver": 3001, "mlflow": 5001, "proxy": 3000, "ray-head": 6379,
    "postgres": 5432,
}  # fmt: skip
OWN_TMP = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /tmp && exec "$@"', "sh"]


@dataclass
class Deployment:
    """The services that run.

    Attributes:
        folder: Logs, secrets and state.
        services: Those of the file.
        pod: The process that holds the network and the mounts.
        environment: What every process has besides the file's variables.
        processes: By service.
    """

    folder: Path
    services: Mapping[str, Any]
    pod: int
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def inside(self) -> list[str]:
        """The command that enters the network and the mounts."""
        return ["nsenter", f"--target={self.pod}", "--net", "--mount", "--"]

    def start(self, name: str, command: list[str] | None = None) -> None:
        """Start a service, by its own command or by that of what stands in for its image."""
        log = (self.folder / f"{name}.log").open("wb")
        own = [*OWN_TMP, *self.services[name]["command"]]
        self.processes[name] = subprocess.Popen(
            [*self.inside, *(command or own)],
            env=self._environment(name), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True, cwd="/",
        )  # fmt: skip

    def stop(self, *names: str) -> None:
        """End services at once, with all that they started."""
        for name in names:
            os.killpg(self.processes[name].pid, signal.SIGKILL)
            self.processes.pop(name).wait()

    def start_beside(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        """Start one more process where a service runs."""
        return subprocess.Popen([*self.inside, *command], env=self._environment(name), cwd="/")

    def run(self, name: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command where the service runs, to its end."""
        return subprocess.run(
            [*self.inside, *command], env=self._environment(name), capture_output=True, text=True,
            cwd="/",
        )  # fmt: skip

    def wait_for_health(self, *names: str, seconds: float = PATIENCE) -> None:
        """Wait until the health checks of the file succeed."""
        until = time.monotonic() + seconds
        for name in names:
            kind, *command = self.services[name]["healthcheck"]["test"]
            assert kind == "CMD"
            while name in PORTS and not self._listens(PORTS[name]):  # a check costs seconds
                assert time.monotonic() < until, (self.folder / f"{name}.log").read_text()
                assert self.processes[name].poll() is None
                time.sleep(0.1)
            while (done := self.run(name, command)).returncode:
                log = (self.folder / f"{name}.log").read_text()
                assert self.processes[name].poll() is None, log
                assert time.monotonic() < until, f"{name}: {done.stdout}{done.stderr}\n{log}"
                time.sleep(0.5)

    def _listens(self, port: int) -> bool:
        """Whether a process in the network does."""
        tables = [Path(f"/proc/{self.pod}/net/{name}").read_text() for name in ("tcp", "tcp6")]
        return bool(re.search(rf":{port:04X} [0-9A-F:]+ 0A ", "".join(tables)))

    def _environment(self, name: str) -> dict[str, str]:
        own = self.services[name].get("environment", {})
        return self.environment | {key: str(value) for key, value in own.items()}


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """A network and mounts for the services; all that was started in them ends with the block."""
    if subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("only root may give processes a network and mounts of their own")
    found = compose()
    hosts = " ".join(["localhost", *found["services"]])
    (folder / "hosts").write_text(f"127.0.0.1 {hosts}\n")
    for name in ("secrets", "state", "backups"):
        (folder / name).mkdir()
    for name, content in SECRETS.items():
        (folder / "secrets" / name).write_text(content)
        (folder / "secrets" / name).chmod(0o600)
    workspace = ROOT / "infra" / "workspace.yaml"
    pod = subprocess.Popen(
        ["unshare", "--net", "--mount", "sh", "-c", POD, "sh", str(folder), str(workspace)],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert pod.stdout is not None
    assert pod.stdout.readline() == b"ready\n"
    pythonpath = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    running = Deployment(
        folder, found["services"], pod.pid,
        {"PATH": PATH, "HOME": "/tmp", "PYTHONPATH": pythonpath, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        yield running
    finally:
        network = _network(str(pod.pid))
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and _network(process.name) == network:
                with suppress(ProcessLookupError):
                    os.kill(int(process.name), signal.SIGKILL)
        for started in (pod, *running.processes.values()):
            started.wait()


def _network(process: str) -> str | None:
    """The network that the process is in; None where it has ended."""
    try:
        return str(Path("/proc", process, "ns", "net").readlink())
    except OSError:
        return None
