"""Runs in real servers: cancelled on the page, killed, out of time, and cut off with all.

The tests go on from each other: what one leaves half done the next one finishes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
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
from orchestration.resources.logs import LOG_FILE
from orchestration.resources.outbox import deliver_left_over
from orchestration.resources.run_messages import Receiver, end_of_killed
from orchestration.resources.runs import PID_TAG
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import DEVICE
from orchestration.settings import Settings
from tests.helpers import forked
from tests.helpers.loaded_runs import CODE_SERVER
from tests.helpers.patience import PATIENCE
from tests.helpers.tiny_corgi import SMALL_PRESET, Corgi, materialise_in

LIMIT = 10  # seconds from "Terminate" to the end of all workers
CODE = "orchestration.definitions"
PRESET = SMALL_PRESET.replace(
    "variants: [baseline, shifted-k1]\ndata: {limit: 200,",
    "workers: 1\nray: {min_images: 0}\nvariants: [baseline]\ncaption_subsets: [100%]\n"
    "data: {limit: 200, shard_size: 10,",
)
HERE = ("workers: 1\nray: {min_images: 0}", "workers: 0")  # without Ray
FOR_HOURS = (
    "    steps: 8\n    batch_size: 8\n    warmup_steps: 1\n    evaluate_every: 8\n"
    "    checkpoint_every: 8",
    "    steps: 10000000\n    batch_size: 8\n    warmup_steps: 1\n    evaluate_every: 10000000\n"
    "    checkpoint_every: 20",
)
EVALUATED = ("text_embeddings", "split_overlap", "caption_subset:100%", "gaussian_bank:baseline",
             "prior:100%|baseline", "decoder:pca")  # fmt: skip


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)


@dataclass
class Served:
    """A workspace in whose page runs are started."""

    settings: Settings
    page: Page
    servers: list[psutil.Process]
    materialise: Corgi

    @property
    def config(self) -> Path:
        """The settings' file, which every run reads."""
        return self.settings.home.parent / "small.yaml"

    def set(self, *changes: tuple[str, str]) -> None:
        """Change the settings' text."""
        text = self.config.read_text()
        for before, after in changes:
            assert before in text
            text = text.replace(before, after, 1)
        self.config.write_text(text)

    def finish(self, *steps: str) -> None:
        """Materialise steps, in a process without Ray."""
        done = self.materialise(*steps)
        assert done.returncode == 0, done.stderr

    def processes_of(self, run: str) -> list[psutil.Process]:
        """The run's own process, as its tags name it, and all that it has started, if it lives."""
        with open_instance(self.settings) as instance:
            found = instance.get_run_by_id(run)
        assert found
        started = self.servers[0].children(recursive=True)
        own = [each for each in started if each.pid == int(found.tags[PID_TAG])]
        return [*own, *(child for each in own for child in each.children(recursive=True))]

    def cancel(self, run: str) -> int:
        """Terminate a run on the page; nothing is left in time of its processes, so many."""
        processes = self.processes_of(run)
        began = time.monotonic()
        self.page.terminate(run)
        wait_for(lambda: self.page.status(run) == "CANCELED", LIMIT)
        wait_for(lambda: not alive(processes), LIMIT)
        assert time.monotonic() - began < LIMIT
        assert self.slots() == 0
        return len(processes)

    def slots(self) -> int:
        """Of the device that are taken."""
        with open_instance(self.settings) as instance:
            return instance.event_log_storage.get_concurrency_info(DEVICE).active_slot_count

    def runs(self) -> list[dg.DagsterRun]:
        """All of Dagster's, the newest first."""
        with open_instance(self.settings) as instance:
            return list(instance.get_runs())

    @property
    def training(self) -> Path:
        (folder,) = (self.settings.work / "clip_encoder").iterdir()
        return folder

    def step(self) -> int:
        """The step of the newest checkpoint; 0 without one."""
        return newest_step(self.training) if (self.settings.work / "clip_encoder").exists() else 0

    def trained_clip(self) -> dict[str, bytes]:
        """The files of the encoders, whose training is finished first, without Ray."""
        self.finish("clip_encoder")
        folder = Path(str(self.settings.storage)) / "clip_encoder"
        return {path.name: path.read_bytes() for path in folder.rglob("*.safetensors")}

    def mlflow_statuses(self) -> dict[str, str]:
        """Of the latest run of each name."""
        mlflow = MLflow.of(self.settings)
        order = ["attributes.start_time ASC"]
        runs = mlflow.client().search_runs([mlflow.experiment_id()], order_by=order)
        return {run.info.run_name: run.info.status for run in runs}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The servers that `corgi ui` starts, as forks in which the libraries are loaded."""
    folder = tmp_path_factory.mktemp("served")
    materialise = materialise_in(folder, PRESET)
    environment = os.environ | {
        "CORGI_HOME": str(folder / ".corgi"), "CORGI_DATA": str(folder / "data"),
        "CORGI_CONFIG": str(folder / "small.yaml"),
        "PYTHONPATH": str(Path(__file__).parents[2]),  # for the runs' processes
    }  # fmt: skip
    settings = Settings.from_environment(environment)
    environment["DAGSTER_HOME"] = str(prepare_home(settings))
    limits = settings.dagster_home / "dagster.yaml"
    text = limits.read_text().replace("enabled: false # of runs", "enabled: true # of runs")
    limits.write_text(text.replace("poll_interval_seconds: 30", "poll_interval_seconds: 1"))
    code, web, workspace = (folder / name for name in ("code", "web", "workspace.yaml"))
    server = {"socket": str(code), "location_name": CODE}
    workspace.write_text(json.dumps({"load_from": [{"grpc_server": server}]}))
    programs = {
        CODE_SERVER: ["api", "grpc", "-m", CODE, "--socket", str(code)],
        forked.module("orchestration.proxy.webserver"): [str(web), "-w", str(workspace)],
        forked.module("dagster._daemon"): ["run", "-w", str(workspace)],
    }
    served = Served(settings, Page(str(web)), [], materialise)
    served.finish("raw_images", "images", "pixels", "clip_encoder")
    shutil.rmtree(settings.work / "clip_encoder")  # the next training is the only one there
    try:
        for number, (program, words) in enumerate(programs.items()):
            log = folder / f"{number}.log"
            started = forked.start(program, words, environment, folder, log)
            served.servers.append(psutil.Process(started.pid))
            if number < 2:
                wait_for((code, web)[number].exists)
        yield served
    finally:
        kill(served.servers)


def kill(servers: list[psutil.Process]) -> list[psutil.Process]:
    """SIGKILL of the servers and all that they have started, at once; those that are left."""
    every = [child for each in servers if each.is_running() for child in each.children(True)]
    for process in [*servers, *every]:
        if process.is_running():
            process.kill()
    return alive(psutil.wait_procs(every, timeout=10)[1])


def modified(files: Iterable[Path]) -> dict[Path, int]:
    """When files were written."""
    return {path: path.stat().st_mtime_ns for path in files}


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that are no zombies, which wait for a parent that was killed."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_terminate_on_the_page_ends_an_embedding_with_all_its_workers(served: Served) -> None:
    shards = Path(str(served.settings.storage)) / "image_embeddings"
    run = served.page.launch(asset="image_embeddings")
    wait_for(lambda: any(shards.glob("0*.json")))
    assert served.cancel(run) > 3  # the run's own, Ray's, and the workers
    assert not (shards / "index.json").exists()
    before = modified(shards.glob("0*.json"))
    served.finish("image_embeddings")
    assert (shards / "index.json").exists()
    assert before.items() <= modified(before).items()  # it went on from them


def test_terminate_on_the_page_ends_an_evaluation(served: Served) -> None:
    served.finish(*EVALUATED)
    served.set(HERE)
    chunks = Path(str(served.settings.storage)) / "evaluation_chunks" / "embeddings"
    run = served.page.launch(asset="evaluation")
    wait_for(lambda: any(chunks.glob("*-*.json")))
    served.cancel(run)
    assert served.mlflow_statuses()["evaluation"] == "KILLED"
    assert not (chunks.parents[1] / "evaluation").exists()
    assert any(chunks.glob("*-*.json"))  # from which the next one goes on: test_evaluate.py


def test_terminate_on_the_page_ends_a_training_in_the_job_of_everything(served: Served) -> None:
    """And the run that the job has begun."""
    served.set(FOR_HOURS, HERE[::-1])
    run = served.page.launch("everything")
    wait_for(served.step)
    assert served.cancel(run) > 3
    within = served.runs()[0]
    assert within.run_id != run
    assert within.asset_selection == {dg.AssetKey("clip_encoder")}
    assert within.status == dg.DagsterRunStatus.CANCELED
    assert served.mlflow_statuses()["clip"] == "KILLED"
    assert f"[run={run}] " in (served.settings.state / LOG_FILE).read_text()


def test_a_run_that_takes_longer_than_it_may_is_ended(served: Served) -> None:
    """By Dagster's daemon."""
    served.set(HERE)
    limits = {"dagster/max_runtime": "3", "dagster/max_retries": "0"}
    run = served.page.launch(asset="clip_encoder", **limits)
    wait_for(lambda: served.page.status(run) == "FAILURE")
    wait_for(lambda: not alive(served.processes_of(run)), LIMIT)
    assert served.slots() == 0


def test_a_run_whose_process_is_killed_is_started_again_where_retries_are_on(
    served: Served,
) -> None:
    before = served.step()
    assert before > 0
    run = served.page.launch(asset="clip_encoder")
    wait_for(lambda: served.step() > before)
    served.processes_of(run)[0].kill()
    look_for_dead_runs(served)
    wait_for(lambda: served.runs()[0].parent_run_id == run)
    before = served.step()
    wait_for(lambda: served.step() > before)
    steps = [entry["step"] for entry in read_metrics(served.training / "metrics.jsonl")]
    assert steps == sorted(set(steps))  # none of its runs began again
    served.cancel(served.runs()[0].run_id)


def look_for_dead_runs(served: Served) -> None:
    """As the daemon does after 20 seconds."""
    with open_instance(served.settings) as instance:
        dead_runs(dg.build_sensor_context(instance=instance))


def test_after_a_power_cut_the_dead_run_is_named_and_the_next_one_ends_as_if_there_was_none(
    served: Served,
) -> None:
    """Everything is killed at once, at a random step of a training on Ray."""
    moment = random.randrange(20, 120)
    shutil.rmtree(served.settings.work / "clip_encoder")
    served.set((FOR_HOURS[1], FOR_HOURS[1].replace("10000000", "300")), HERE[::-1])
    run = served.page.launch(asset="clip_encoder")
    wait_for(lambda: served.step() >= moment)
    assert not kill(served.servers)
    assert served.mlflow_statuses()["clip"] == "RUNNING"
    dead = served.runs()[0]
    assert (dead.run_id, dead.status) == (run, dg.DagsterRunStatus.STARTED)  # as Dagster knows
    assert served.slots() == 1
    look_for_dead_runs(served)
    assert served.runs()[0].status == dg.DagsterRunStatus.FAILURE
    assert served.slots() == 0
    outbox = Path(MLflow.of(served.settings).outbox)
    deliver_left_over(outbox, lambda: Receiver(MLflow.of(served.settings)), end_of_killed)
    assert served.mlflow_statuses()["clip"] == "KILLED"
    assert 0 < (reached := served.step()) < 300
    resumed = served.trained_clip()
    shutil.rmtree(served.settings.work / "clip_encoder")
    assert served.trained_clip() == resumed, f"killed at step {moment}, resumed from {reached}"
