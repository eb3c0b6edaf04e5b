"""One workspace for all end-to-end tests: `corgi demo` on a part of emoji-small, killed twice.

The job is killed with SIGKILL in the middle of embedding and in the middle of training, and then
run to its end; so everything that the tests find in the workspace came out of a resumed job.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from corgi_core.config import Preset
from orchestration.settings import Settings
from tests.helpers import forked
from tests.helpers.patience import PATIENCE
from tests.helpers.processes import free_port

NAME = "emoji-small"
SETTINGS = f"""
extends: {NAME}
variants: [baseline, shifted-k16]
caption_subsets: [0%, 1.7%, 100%]
gaussians: {{learning: {{steps: 40, batch_size: 64, warmup_steps: 5}}}}
evaluation: {{steps: [1, 4, 16]}}
comparison: {{variants: [baseline, shifted-k16]}}
"""
ROOT = Path(__file__).resolve().parents[2]
CORGI = [sys.executable, "-c", forked.CORGI]
# Nothing listens there: whatever goes through it fails.
PROXIES = dict.fromkeys(("http_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
WITHOUT_RAY = ("--set", "workers=0")


@dataclass
class Workspace:
    """A finished workspace in a folder of its own, and what was found when it was killed.

    `ports` are Dagster's and MLflow's, to which links point.
    """

    folder: Path
    ports: tuple[int, int] = field(default_factory=lambda: (free_port(), free_port()))
    torn_embedding_shards: list[str] = field(default_factory=list)
    steps_before_the_kill: int = 0
    resumed_at: float = 0.0
    killed_training: Path | None = None

    @property
    def state(self) -> Path:
        return self.folder / ".corgi" / NAME

    @property
    def preset(self) -> Preset:
        return Settings.load(self.environment).preset

    @property
    def environment(self) -> dict[str, str]:
        mine = {
            "CORGI_HOME": str(self.folder / ".corgi"),
            "CORGI_DATA": str(self.folder / "data"),
            "CORGI_CONFIG": str(self.folder / "settings.yaml"),
            "CORGI_DEVICE_LOCK": str(self.folder / "device.lock"),
            "CORGI_DAGSTER_PORT": str(self.ports[0]),
            "CORGI_MLFLOW_PORT": str(self.ports[1]),
            "DAGSTER_HOME": str(self.state / "dagster"),
            "COLUMNS": "120",
        }
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("CORGI_", "MLFLOW_TR"))}
        return outside | mine

    def corgi(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A `corgi` to its end, beside a proxy that it must not use."""
        return self.run([*CORGI, *words], **PROXIES)

    def quick(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The same where the libraries are loaded already, without the restart beside a proxy."""
        return self.fork(forked.CORGI, *words, **PROXIES)

    def fork(self, program: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return forked.run(program, words, self.environment | variables, self.folder)

    def run(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment | variables, cwd=self.folder,
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    def start(self, log: Path, *words: str) -> subprocess.Popen[bytes]:
        """A `corgi` that goes on while the test does other things, its output in `log`."""
        with log.open("ab") as file:
            return subprocess.Popen(
                [*CORGI, *words], env=self.environment | PROXIES, cwd=self.folder,
                stdout=file, stderr=file,
            )  # fmt: skip

    def start_quickly(self, log: Path, *words: str) -> forked.Program:
        """The same where the libraries are loaded already."""
        environment = self.environment | PROXIES
        return forked.start(forked.CORGI, words, environment, self.folder, log)

    def kill_the_demo_when(
        self,
        reached: Callable[[], bool],
        start: Callable[..., subprocess.Popen[bytes] | forked.Program],
        *words: str,
    ) -> None:
        """Start `corgi demo` and SIGKILL it as soon as `reached()`."""
        log = self.folder / "killed.log"
        job = start(log, "demo", *words)
        try:
            until = time.monotonic() + PATIENCE
            while not reached():
                assert job.poll() is None, log.read_text() + _log_of(self)
                assert time.monotonic() < until
                time.sleep(0.002)
        finally:
            job.kill()
            job.wait()

    def path_of(self, asset: str, partition: str) -> Path:
        return self.state.joinpath("storage", asset, *partition.split("|"))

    def bytes_of(self, asset: str, partition: str) -> dict[str, bytes]:
        """The artefact's files, whole."""
        return {p.name: p.read_bytes() for p in self.path_of(asset, partition).iterdir()}

    def forget(self, asset: str, partition: str) -> dict[str, bytes]:
        """Remove an artefact and the training behind it, and return its files."""
        files = self.bytes_of(asset, partition)
        assert "model.safetensors" in files
        shutil.rmtree(self.path_of(asset, partition))
        training = self.state.joinpath("work", asset, *partition.split("|"))
        shutil.rmtree(training, ignore_errors=True)  # a Gaussian bank has none
        return files

    @property
    def metrics(self) -> dict:
        return json.loads((self.state / "reports" / "metrics.json").read_text())


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("corgi"))
    (workspace.folder / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    embeddings = workspace.state / "storage" / "image_embeddings"
    workspace.kill_the_demo_when(
        lambda: any(embeddings.glob("?????.json")), workspace.start, *WITHOUT_RAY
    )
    workspace.torn_embedding_shards = [path.stem for path in embeddings.glob("?????.json")]
    assert not (embeddings / "index.json").exists()

    trainings = workspace.state / "work" / "prior"
    workspace.kill_the_demo_when(
        lambda: any(trainings.glob("**/checkpoints/step-*/state.json")), workspace.start_quickly
    )
    (state,) = trainings.glob("**/checkpoints/step-*/state.json")
    workspace.killed_training = state.parents[2]
    workspace.steps_before_the_kill = int(state.parent.name.removeprefix("step-"))

    # Ray has trained the decoder and half a prior. The job's own process has trained CLIP, and
    # trains the rest: it resumes Ray's checkpoint, and saves the start of a worker for each model.
    workspace.resumed_at = time.time()
    done = workspace.quick("demo", *WITHOUT_RAY)
    assert done.returncode == 0, done.stdout + done.stderr + _log_of(workspace)
    return workspace


def _log_of(workspace: Workspace) -> str:
    return "".join(path.read_text()[-5000:] for path in workspace.state.glob("*.log"))
