"""A training that lasts for hours, in real servers: cancelled on the page, and cut off with all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import psutil
import pytest

from benchmarks.power_cut_steps.page import Page
from corgi_core.training.checkpoint import newest_step
from corgi_core.training.metrics_log import read_metrics
from orchestration.automation.dead_runs import dead_runs
from orchestration.resources.instance import open_instance, prepare_home
from orchestration.resources.outbox import deliver_left_over
from orchestration.resources.run_messages import Receiver, end_of_killed
from orchestration.resources.runs import PID_TAG
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import DEVICE
from orchestration.settings import Settings
from tests.helpers import forked
from tests.helpers.tiny_corgi import SMALL_PRESET, materialise_in

LIMIT = 10  # seconds from "Terminate" to the end of all workers
CODE = "orchestration.definitions"
PRESET = "workers: 1" + SMALL_PRESET.replace(
    "    steps: 8\n    batch_size: 8\n    warmup_steps: 1\n    evaluate_every: 8\n"
    "    checkpoint_every: 8",
    "    steps: 10000000\n    batch_size: 8\n    warmup_steps: 1\n    evaluate_every: 10000000\n"
    "    checkpoint_every: 20",
)


def wait_for(condition: Callable[[], object], seconds: float = 600) -> float:
    """The seconds until the condition holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.1)
    return time.monotonic() - began


@dataclass
class Served:
    """A workspace in whose page runs are started."""

    settings: Settings
    page: Page
    servers: list[psutil.Process]

    def processes_of(self, run: str) -> list[psutil.Process]:
        """The run's own process, as its tags name it, and all that it has started."""
        with open_instance(self.settings) as instance:
            found = instance.get_run_by_id(run)
            assert found
            own = psutil.Process(int(found.tags[PID_TAG]))
        assert own in self.servers[0].children(recursive=True)
        return [own, *own.children(recursive=True)]

    @property
    def training(self) -> Path:
        (folder,) = (self.settings.work / "clip_encoder").iterdir()
        return folder

    def step(self) -> int:
        """The step of the newest checkpoint; 0 without one."""
        return newest_step(self.training) if (self.settings.work / "clip_encoder").exists() else 0

    def mlflow_statuses(self) -> dict[str, str]:
        mlflow = MLflow.of(self.settings)
        runs = mlflow.client().search_runs([mlflow.experiment_id()])
        return {run.info.run_name: run.info.status for run in runs}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The servers that `corgi ui` starts, as forks in which the libraries are loaded."""
    folder = tmp_path_factory.mktemp("served")
    done = materialise_in(folder, PRESET)("raw_images", "images", "pixels")
    assert done.returncode == 0, done.stderr
    environment = os.environ | {
        "CORGI_HOME": str(folder / ".corgi"), "CORGI_DATA": str(folder / "data"),
        "CORGI_CONFIG": str(folder / "small.yaml"),
        "PYTHONPATH": str(Path(__file__).parents[2]),  # for the run's process, which is no fork
    }  # fmt: skip
    settings = Settings.from_environment(environment)
    environment["DAGSTER_HOME"] = str(prepare_home(settings))
    code, web, workspace = (folder / name for name in ("code", "web", "workspace.yaml"))
    server = {"socket": str(code), "location_name": CODE}
    workspace.write_text(json.dumps({"load_from": [{"grpc_server": server}]}))
    programs = {
        "dagster": ["api", "grpc", "-m", CODE, "--socket", str(code)],
        "orchestration.proxy.webserver": [str(web), "-w", str(workspace)],
        "dagster._daemon": ["run", "-w", str(workspace)],
    }
    servers = []
    try:
        for name, words in programs.items():
            log = folder / f"{name}.log"
            program = forked.start(forked.module(name), words, environment, folder, log)
            servers.append(psutil.Process(program.pid))
            if name != "dagster._daemon":
                wait_for((code if name == "dagster" else web).exists)
        yield Served(settings, Page(str(web)), servers)
    finally:
        kill(servers)


def kill(servers: list[psutil.Process]) -> list[psutil.Process]:
    """SIGKILL of the servers and all that they have started, at once; those that are left."""
    every = [child for each in servers if each.is_running() for child in each.children(True)]
    for process in [*servers, *every]:
        if process.is_running():
            process.kill()
    return alive(psutil.wait_procs(every, timeout=10)[1])


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that are no zombies, which wait for a parent that was killed."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_terminate_on_the_page_ends_a_training_with_all_its_workers(served: Served) -> None:
    run = served.page.launch(asset="clip_encoder")
    wait_for(served.step)
    processes = served.processes_of(run)
    assert len(processes) > 3  # the run's own, Ray's, and the worker
    began = time.monotonic()
    served.page.terminate(run)
    wait_for(lambda: served.page.status(run) == "CANCELED", LIMIT)
    wait_for(lambda: not alive(processes), LIMIT)
    assert time.monotonic() - began < LIMIT
    assert served.mlflow_statuses()["clip"] == "KILLED"
    with open_instance(served.settings) as instance:
        assert instance.event_log_storage.get_concurrency_info(DEVICE).active_slot_count == 0


def test_after_a_power_cut_the_dead_run_is_named_and_the_device_is_free(served: Served) -> None:
    """The run resumes the cancelled training, without Ray; then everything is killed at once."""
    before = served.step()
    assert before > 0
    config = served.settings.home.parent / "small.yaml"  # which the run's process reads
    config.write_text(config.read_text().replace("workers: 1", "workers: 0"))
    run = served.page.launch(asset="clip_encoder")
    wait_for(lambda: served.step() > before)
    steps = [entry["step"] for entry in read_metrics(served.training / "metrics.jsonl")]
    assert steps == sorted(set(steps))
    assert steps[0] <= before  # it went on, and did not begin again
    assert served.mlflow_statuses()["clip"] == "RUNNING"
    assert served.processes_of(run)
    assert not kill(served.servers)

    with open_instance(served.settings) as instance:
        storage = instance.event_log_storage
        dead = instance.get_run_by_id(run)
        assert dead
        assert dead.status == dg.DagsterRunStatus.STARTED  # for all that Dagster knows
        assert storage.get_concurrency_info(DEVICE).active_slot_count == 1
        dead_runs(dg.build_sensor_context(instance=instance))  # as the daemon does after 20 s
        ended = instance.get_run_by_id(run)
        assert ended
        assert ended.status == dg.DagsterRunStatus.FAILURE
        assert storage.get_concurrency_info(DEVICE).active_slot_count == 0
    outbox = Path(MLflow.of(served.settings).outbox)
    deliver_left_over(outbox, lambda: Receiver(MLflow.of(served.settings)), end_of_killed)
    assert served.mlflow_statuses()["clip"] == "KILLED"
