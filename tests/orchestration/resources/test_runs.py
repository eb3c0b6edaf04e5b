"""Runs know their process: dead ones are named, and their device is free; waiting says for whom."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from corgi_core.io import processes
from corgi_core.io.processes import this_process
from corgi_core.progress import listening
from orchestration.automation.dead_runs import dead_runs
from orchestration.automation.refresh import Refresh, Step
from orchestration.resources import runs
from orchestration.resources.executor import one_process_executor_of
from orchestration.resources.instance import open_instance
from orchestration.resources.logs import LOG_FILE, appended_to_log, file_logger_of
from orchestration.resources.runs import (
    HOST_TAG,
    LAUNCHED_BY,
    PID_TAG,
    RUN_TAG,
    STARTED_TAG,
    cancel,
    end_dead_runs,
    mark_cancelling,
    process_of,
    process_tags,
    take,
    wait_for,
    was_interrupted,
)
from orchestration.resources.trainer import DEVICE
from orchestration.settings import Settings

S = dg.DagsterRunStatus


@pytest.fixture(scope="module", autouse=True)
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Of a workspace of this file's own, which the environment names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CORGI_HOME", str(tmp_path_factory.mktemp("home")))
        yield Settings.from_environment(os.environ)


@pytest.fixture(scope="module")
def instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    with open_instance(settings) as opened:
        opened.event_log_storage.initialize_concurrency_limit_to_default(DEVICE)
        yield opened


@pytest.fixture(scope="module")
def dead() -> dict[str, str]:
    """The tags of a process that has ended."""
    with subprocess.Popen(["true"]) as child:
        pass
    return process_tags("") | {PID_TAG: str(child.pid)}


def run_of(
    instance: dg.DagsterInstance, status: S, tags: dict[str, str], slot: bool = False
) -> str:
    @dg.job
    def training() -> None: ...

    run_id = str(uuid.uuid4())
    if tags.get(RUN_TAG) == "":
        tags = tags | {RUN_TAG: run_id}
    instance.create_run_for_job(training, run_id=run_id, status=status, tags=tags)
    if slot:
        instance.event_log_storage.claim_concurrency_slot(DEVICE, run_id, "prior")
    return run_id


def interrupted() -> dg.JobDefinition:
    """A job of the environment's workspace."""

    @dg.op
    def interrupt() -> None:
        dg.get_dagster_logger().info("at work")
        raise KeyboardInterrupt

    @dg.job(executor_def=one_process_executor_of(Settings.from_environment(os.environ)))
    def interrupted() -> None:
        interrupt()

    return interrupted


def slots(instance: dg.DagsterInstance) -> int:
    return instance.event_log_storage.get_concurrency_info(DEVICE).active_slot_count


def status(instance: dg.DagsterInstance, run_id: str) -> S:
    run = instance.get_run_by_id(run_id)
    assert run
    return run.status


def test_the_runs_of_dead_processes_end_and_free_the_device(
    instance: dg.DagsterInstance, dead: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listening_server:
        listening_server.bind(str(tmp_path / "alive"))
        listening_server.listen()
        servers = {
            name: {LAUNCHED_BY: f'{{"host": "localhost", "socket": "{tmp_path / name}"}}'}
            for name in ("alive", "gone")
        }
        died = [
            run_of(instance, S.STARTED, dead, slot=True),
            run_of(instance, S.STARTING, servers["gone"]),
            run_of(instance, S.STARTED, process_tags("") | {STARTED_TAG: "an earlier boot/7"}),
            run_of(instance, S.NOT_STARTED, dead),  # of a refresh that was about to begin it
        ]
        cancelled = run_of(instance, S.CANCELING, dead)
        lives = [
            run_of(instance, S.STARTED, process_tags("")),
            run_of(instance, S.STARTED, dead | {HOST_TAG: "elsewhere"}),
            run_of(instance, S.STARTING, servers["alive"]),
            run_of(instance, S.STARTING, servers["alive"] | dead | {RUN_TAG: "started again"}),
            run_of(instance, S.NOT_STARTED, {}),
        ]
        assert slots(instance) == 1
        reason = dead_runs(dg.build_sensor_context(instance=instance))
        assert end_dead_runs(instance) == []
    assert isinstance(reason, dg.SkipReason)
    assert reason.skip_message
    assert all(run_id in reason.skip_message for run_id in [*died, cancelled])
    assert {status(instance, run_id) for run_id in died} == {S.FAILURE}
    assert status(instance, cancelled) == S.CANCELED
    assert not {status(instance, run_id) for run_id in lives} & {S.FAILURE, S.CANCELED}
    assert slots(instance) == 0
    said = [entry.user_message or entry.message for entry in instance.all_logs(died[0])]
    assert any(f"process {dead[PID_TAG]} on {platform.node()}" in str(words) for words in said)


def test_who_waits_for_the_device_reads_who_has_it_and_gets_it_when_that_run_dies(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "DEATHS_LOOKED_FOR", 1)
    partition = {"dagster/partition": "100%|baseline"}
    with subprocess.Popen(["sleep", "5"]) as child:
        tags = process_tags("") | {
            PID_TAG: str(child.pid),
            STARTED_TAG: str(processes._started(child.pid)),
        }
        holder = run_of(instance, S.STARTED, tags | partition, slot=True)
        heard: list[str] = []

        def hear(what: str, done: int, total: int) -> None:
            heard.append(what)
            child.kill()
            child.wait()

        with listening(hear):
            wait_for(instance, DEVICE)
    assert status(instance, holder) == S.FAILURE
    for words in (holder[:8], "prior 100% baseline", f"process {child.pid}", platform.node()):
        assert words in heard[0]


def test_a_run_knows_its_process_and_an_interrupt_cancels_it(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    """By the executor of the code location; Dagster's own would say that the run has failed.

    Nobody configured its loggers, as nobody does on Dagster's page; the workspace's log has it.
    """
    result = dg.execute_job(dg.reconstructable(interrupted), instance)
    assert not result.success
    (run,) = instance.get_runs(dg.RunsFilter(job_name="interrupted"))
    assert run.status == S.CANCELED
    assert process_of(run) == this_process()
    log = (settings.state / LOG_FILE).read_text()
    assert f"[run={run.run_id}] interrupt - at work\n" in log
    for words in ("STEP_START", "PIPELINE_CANCELED", "KeyboardInterrupt"):
        assert words in log


@dg.asset
def cut_short() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_run_goes_on_without_its_log_and_leaves_no_file_open(
    tmp_path: Path, spoilt: bool
) -> None:
    @dg.job
    def nothing() -> None: ...

    settings = Settings.from_environment({"CORGI_HOME": str(tmp_path)})
    path = settings.state / LOG_FILE
    if spoilt:
        path.mkdir(parents=True)
    with open_instance(settings) as instance:
        run = instance.create_run_for_job(nothing)
        instance.add_event_listener(run.run_id, appended_to_log(settings, instance, run))
        for line in ("begins", "ends"):
            instance.report_engine_event(line, run)
        said = [each.message for each in instance.all_logs(run.run_id)]
    opened = {Path(each.path) for each in psutil.Process().open_files()}
    assert path not in opened
    assert len([each for each in said if "corgi.log has not all lines" in each]) == int(spoilt)
    assert said[-1] == "ends"
    if not spoilt:
        lines = path.read_text().splitlines()
        assert ["begins" in lines[0], "ends" in lines[1]] == [True, True]


def test_of_two_processes_of_one_run_the_earlier_is_ended_with_all_that_it_started(
    instance: dg.DagsterInstance,
) -> None:
    """As two daemons start them."""
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"]) as earlier:
        while not (started := psutil.Process(earlier.pid).children()):
            pass
        mark = {PID_TAG: str(earlier.pid), STARTED_TAG: str(processes._started(earlier.pid))}
        run_id = run_of(instance, S.STARTED, process_tags("") | mark)
        again = run_of(instance, S.STARTED, process_tags(run_id) | mark)  # tags are copied
        take(instance, again)
        assert processes._started(earlier.pid)
        take(instance, run_id)
        assert processes._started(earlier.pid) is None
        elsewhere = process_tags(run_id) | mark | {HOST_TAG: "elsewhere"}
        instance.add_run_tags(run_id, elsewhere)
        take(instance, run_id)
        said = [each.message for each in instance.all_logs(run_id) if "twice" in each.message]
        assert ["was ended" in each for each in said] == [True, False]
        assert f"{earlier.pid} on elsewhere may be at work too" in said[1]
    assert not psutil.wait_procs(started, timeout=5)[1]
    for taken in (run_id, again):
        run = instance.get_run_by_id(taken)
        assert run
        assert process_of(run) == this_process()


def test_an_interrupt_cancels_the_run_that_a_refresh_is_in(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    """As in `corgi run`, and within the job `everything`."""
    definitions = dg.Definitions([cut_short], loggers={"file": file_logger_of(settings)})
    refresh = Refresh(definitions.get_repository_def(), instance, settings)
    with pytest.raises(KeyboardInterrupt):
        refresh.materialize(Step(cut_short.key))
    run = instance.get_runs(limit=1)[0]
    assert run.asset_selection == {cut_short.key}
    assert run.status == S.CANCELED
    assert process_of(run) == this_process()


def test_a_run_that_no_workspace_would_know_of_is_refused(
    tmp_path: Path, settings: Settings
) -> None:
    """Without DAGSTER_HOME, `dagster asset materialize` records it in a temporary folder."""
    with dg.DagsterInstance.from_config(str(tmp_path)) as temporary:
        result = dg.execute_job(dg.reconstructable(interrupted), temporary)
        said = [entry.to_json() for entry in temporary.all_logs(result.run_id)]
    assert not result.success
    assert not [event for event in result.all_events if event.is_step_event]
    assert any(f"export DAGSTER_HOME={settings.dagster_home}" in words for words in said)


def test_what_a_person_terminates_differs_from_what_ends_with_its_servers(
    instance: dg.DagsterInstance,
) -> None:
    found = []
    for terminated in (True, False):
        run_id = run_of(instance, S.STARTED, process_tags(""))
        run = instance.get_run_by_id(run_id)
        assert run
        if terminated:
            instance.report_run_canceling(run)  # as Dagster does before the process hears of it
        mark_cancelling(instance, run_id)
        cancel(instance, run_id)
        ended = instance.get_run_by_id(run_id)
        assert ended
        found.append((ended.status, was_interrupted(ended)))
    assert found == [(S.CANCELED, False), (S.CANCELED, True)]


def test_cancelling_leaves_a_finished_run_alone(instance: dg.DagsterInstance) -> None:
    finished = run_of(instance, S.SUCCESS, process_tags(""))
    failed = run_of(instance, S.FAILURE, process_tags(""))
    mark_cancelling(instance, finished)
    cancel(instance, finished)
    cancel(instance, failed)  # of an interrupt, which Dagster takes for a failure
    assert status(instance, finished) == S.SUCCESS
    assert status(instance, failed) == S.CANCELED
