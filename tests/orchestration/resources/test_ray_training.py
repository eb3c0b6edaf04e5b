"""Ray Train around the loop: real workers, really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import ray

from corgi_core import progress
from corgi_core.errors import CorgiError
from corgi_core.training.loop import train
from corgi_core.training.metrics_log import Entry, read_metrics
from orchestration.resources import ray_train, worker_shape
from orchestration.resources.compute import Compute
from orchestration.resources.worker_shape import (
    WorkerShape,
    nodes_of_cluster,
    shape_when_free,
)
from tests.helpers import forked
from tests.helpers.tiny import SETTINGS, TinyTask, numbered, same

HERE = str(Path(__file__).parents[3])  # where workers find the task
PYTHONPATH = os.pathsep.join(filter(None, (HERE, os.environ.get("PYTHONPATH"))))


def test_too_many_workers_for_this_machine_fail_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(CorgiError, match="CORGI_WORKERS"):
        Compute(num_workers=8 * 512).train(
            TinyTask(), replace(SETTINGS, batch_size=8 * 512), tmp_path / "run", "tiny"
        )
    assert time.monotonic() - began < 5


def test_without_workers_the_loop_runs_here(tmp_path: Path) -> None:
    got: list[Entry] = []
    result = Compute(num_workers=0).train(
        TinyTask(), SETTINGS, tmp_path / "here", "tiny", got.append
    )
    assert [entry["step"] for entry in got] == [10, 20, 30, 40, 50, 60]
    assert result.undelivered == 0
    again = Compute(num_workers=0).train(TinyTask(), SETTINGS, tmp_path / "here", "tiny")
    assert again.already_finished
    with pytest.raises(CorgiError, match="another training"):
        Compute(num_workers=0).train(TinyTask(rows=50), SETTINGS, tmp_path / "here", "tiny")


def run_a_step_that_trains_nothing() -> None:
    @dg.asset
    def idle(compute: Compute) -> int:
        return compute.num_workers

    assert dg.materialize([idle], resources={"compute": Compute(num_workers=1)}).success


def test_a_step_starts_no_ray_by_itself() -> None:
    run_a_step_that_trains_nothing()
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = PYTHONPATH
    yield
    ray.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.mark.usefixtures("ray_session")
def test_a_local_ray_refuses_whoever_lacks_its_token(tmp_path: Path) -> None:
    """Be it a process of this machine; that no other one reaches it, test_closed_by_default has."""
    Compute(num_workers=1).connect()
    address = ray.get_runtime_context().gcs_address
    (tmp_path / "token").write_text("b" * 32)
    script = f"""
from orchestration.resources.compute import Compute
from corgi_core.errors import CorgiError
try:
    Compute(address={address!r}).connect()
except CorgiError as refusal:
    print(refusal)
"""
    other = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    said = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | other, capture_output=True, text=True
    ).stdout
    assert "refuses this process's token" in said


def hold(cpus: int) -> Any:
    """An actor of Ray's that has so many CPUs until it is killed."""

    class Holder:
        def ready(self) -> bool:
            return True

    actor = ray.remote(num_cpus=cpus)(Holder).remote()
    assert ray.get(actor.ready.remote())
    return actor


@pytest.mark.usefixtures("ray_session")
def test_workers_wait_for_what_others_use_but_not_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    training = Compute(num_workers=1, patience=0.5)
    training.connect()
    cpus = int(ray.cluster_resources()["CPU"])
    holder = hold(cpus)
    refusal = rf"1 training workers .* 1 CPU .*after 0\.5 s: 0 of {cpus} CPUs\. end other work"
    with pytest.raises(CorgiError, match=refusal):
        training.train(TinyTask(), SETTINGS, tmp_path / "run", "tiny")
    monkeypatch.setattr(worker_shape, "SETTLING", 0.5)
    threading.Timer(1.0, ray.kill, [holder]).start()
    whole = shape_when_free(1, 1.0, nodes_of_cluster, patience=20)
    assert whole == WorkerShape(1, cpus, gpus=0)
    assert caplog.text.count("the training waits 20 s at most for CPUs") == 1
    holder = hold(1)
    if cpus > 1:
        some = shape_when_free(1, 1.0, nodes_of_cluster, patience=20)
        assert some == WorkerShape(1, cpus - 1, gpus=0)
    ray.kill(holder)


@pytest.mark.usefixtures("ray_session")
def test_a_killed_worker_is_replaced_and_nothing_shows(tmp_path: Path) -> None:
    task = TinyTask(die_at=35, died=tmp_path / "died", read_by=tmp_path / "readers")
    got: list[Entry] = []
    steps: list[int] = []
    interrupt = signal.getsignal(signal.SIGINT)
    with progress.listening(lambda what, done, total: steps.append(done)):
        result = Compute(num_workers=1).train(
            task, SETTINGS, tmp_path / "killed", "tiny", got.append
        )
    assert (tmp_path / "died").exists()  # the worker did kill itself
    # Ray's controller, which would load the task's libraries, has handed it on unread
    assert len((tmp_path / "readers").read_text().split()) == 2
    straight = train(task, SETTINGS, tmp_path / "straight")
    assert same(result.model, straight.model)
    assert result.metrics == straight.metrics
    assert not result.already_finished
    assert result.undelivered == 0
    assert [entry["step"] for entry in got] == steps == [10, 20, 30, 40, 50, 60]
    assert got[-1] == read_metrics(result.metrics_log)[-1]
    assert not (tmp_path / "killed" / "ray").exists()
    assert signal.getsignal(signal.SIGINT) is interrupt
    run_a_step_that_trains_nothing()
    assert ray.is_initialized()  # for the next training too
    with pytest.raises(CorgiError, match="another training"):
        Compute(num_workers=1).train(TinyTask(rows=50), SETTINGS, tmp_path / "killed", "tiny")


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_workers_refusal_comes_back_as_it_is_and_at_once(tmp_path: Path, workers: int) -> None:
    task = TinyTask(spoil_from=20, attempts=tmp_path / "attempts")
    with pytest.raises(CorgiError, match="not finite for 10 steps up to 29"):
        Compute(num_workers=workers).train(task, SETTINGS, tmp_path / "spoilt", "tiny")
    assert len((tmp_path / "attempts").read_text()) == workers  # one each


@pytest.mark.usefixtures("ray_session")
def test_workers_that_die_again_and_again_end_the_training_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the system kills them for want of memory, each time in the first evaluation."""
    monkeypatch.setattr(ray_train, "MAX_FAILURES", 1)
    refusal = "tiny: workers died 2 times without a new checkpoint between"
    with pytest.raises(CorgiError, match=refusal) as refused:
        Compute(num_workers=1).train(
            TinyTask(die_evaluating=True), SETTINGS, tmp_path / "run", "tiny"
        )
    assert "lower the training's batch_size" in refused.value.remedy
    assert "goes on from step 10" in refused.value.remedy
    resumed = train(TinyTask(), SETTINGS, tmp_path / "run")
    assert resumed.steps == SETTINGS.steps


@pytest.mark.usefixtures("ray_session")
def test_a_full_disk_comes_back_as_it_is(tmp_path: Path, small_disk: Path) -> None:
    """Of two workers one alone meets it, while the other waits."""
    task = TinyTask(
        plain=True, fill_at=25, ballast=small_disk / "ballast", attempts=tmp_path / "attempts"
    )
    training = Compute(num_workers=2)
    for attempts in (1, 2):  # the second finds the disk full from the start
        with pytest.raises(CorgiError, match=r"full\. free space .* goes on from step 20"):
            training.train(task, SETTINGS, small_disk / "run", "tiny")
        assert len((tmp_path / "attempts").read_text()) == 2 * attempts
    (small_disk / "ballast").unlink()
    resumed = train(replace(task, ballast=None), SETTINGS, small_disk / "run")
    assert resumed.steps == SETTINGS.steps


@pytest.mark.usefixtures("ray_session")
def test_a_killed_job_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """The job that is killed is a process with a Ray of its own."""
    metrics_log = tmp_path / "run" / "metrics.jsonl"
    script = f"""
from pathlib import Path
from tests.helpers.tiny import SETTINGS, TinyTask
from orchestration.resources.compute import Compute
Compute(num_workers=1).train(TinyTask(pause=0.1), SETTINGS, Path({str(tmp_path)!r}) / "run", "tiny")
"""
    job = forked.start(script, [], os.environ, tmp_path, tmp_path / "log")
    while not any(entry["step"] >= 30 for entry in read_metrics(metrics_log)):
        assert job.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    job.kill()
    job.wait()
    between = time.time()
    killed = Compute(num_workers=1).train(TinyTask(), SETTINGS, tmp_path / "run", "tiny")
    straight = train(TinyTask(), SETTINGS, tmp_path / "straight")
    assert same(killed.model, straight.model)
    assert killed.metrics == straight.metrics
    # the log was continued: the first steps are of the killed job, and none is written twice
    times = {entry["step"]: entry["time"] for entry in read_metrics(metrics_log)}
    assert sorted(times) == [10, 20, 30, 40, 50, 60]
    assert times[30] < between < times[60]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("workers", [0, 1])
def test_items_are_shared_among_workers_that_keep_what_they_loaded(workers: int) -> None:
    heard: list[tuple[str, int, int]] = []
    training = Compute(num_workers=workers)
    with progress.listening(lambda *report: heard.append(report)):
        results = list(training.map(numbered, {}, range(8), "numbers"))
    assert sorted(item for item, _, _ in results) == list(range(8))
    by_worker: dict[int, list[int]] = {}
    for _, worker, had in results:
        by_worker.setdefault(worker, []).append(had)
    assert (os.getpid() in by_worker) == (workers == 0)
    assert all(sorted(had) == list(range(1, len(had) + 1)) for had in by_worker.values())
    assert heard[-1] == ("numbers", 8, 8)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_items_refusal_is_the_callers(workers: int) -> None:
    with pytest.raises(CorgiError, match="-3 is negative"):
        list(Compute(num_workers=workers).map(numbered, {}, [1, 2, -3], "numbers"))
