"""Dagster's runs and their processes: who runs what, who has the device, which runs have died.

Every run has tags that name its process and machine. So a run whose process was killed, or whose
machine lost power, is told from one that is at work, and the device that it held is free again.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import dagster as dg

from corgi_core import progress
from corgi_core.io.locks import exclusive_lock
from corgi_core.io.processes import ProcessMark, end_process, has_ended, this_process
from orchestration.resources.interrupts import Notice, noticed

HOST_TAG, PID_TAG, STARTED_TAG = "corgi/host", "corgi/pid", "corgi/started"
RUN_TAG = "corgi/run"  # whose process it is: Dagster copies tags to a run that is started again
INTERRUPTED_TAG = "corgi/interrupted"  # the id of a run that ended by no person's wish
LAUNCHED_BY = ".dagster/grpc_info"  # Dagster's tag: where the code server listens
BEGUN = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
AT_WORK = [dg.DagsterRunStatus.NOT_STARTED, *BEGUN, dg.DagsterRunStatus.CANCELING]
CANCELLED = (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED]
DEATHS_LOOKED_FOR = 10  # seconds between two looks, while somebody waits
BEGINS = "another run begins"  # for who waits to begin one
PATIENCE = 60.0  # seconds to wait for that
DIED = "it was killed, or the machine lost power; the next run goes on from what is stored"


def process_tags(run_id: str) -> dict[str, str]:
    """The tags of a run that this process executes."""
    mark = this_process()
    return {
        RUN_TAG: run_id, HOST_TAG: mark.host, PID_TAG: str(mark.pid), STARTED_TAG: mark.started,
    }  # fmt: skip


def take(instance: dg.DagsterInstance, run_id: str) -> None:
    """Make this process the one that executes a run; another one that does is ended.

    Two daemons may start two processes for one run. The code server terminates the one that it has
    started last, and that goes on from what the other one has stored.
    """
    with exclusive_lock(Path(instance.root_directory) / "runs.lock", BEGINS, PATIENCE):
        run = instance.get_run_by_id(run_id)
        other = process_of(run) if run else None
        if other is not None and other != this_process() and not has_ended(other):
            how = "was ended" if end_process(other) else "may be at work too: end it there"
            instance.report_engine_event(f"It was started twice; {other} {how}.", run)
        instance.add_run_tags(run_id, process_tags(run_id))


def process_of(run: dg.DagsterRun) -> ProcessMark | None:
    """The process that executes a run; None where it is not known yet."""
    if run.tags.get(RUN_TAG) != run.run_id:
        return None
    with suppress(KeyError, ValueError):
        return ProcessMark(
            run.tags[HOST_TAG], int(run.tags[PID_TAG]), run.tags[STARTED_TAG]
        )  # fmt: skip
    return None


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """End the runs at work whose process has ended, and free what dead runs hold of the pools.

    Runs of other machines are left alone.

    Returns:
        The ids of the runs that are ended.
    """
    ended = []
    for run in instance.get_runs(dg.RunsFilter(statuses=AT_WORK)):
        mark = process_of(run)
        if not (has_ended(mark) if mark else _lost_on_its_way(run)):
            continue
        current = instance.get_run_by_id(run.run_id)
        if current is None or current.is_finished:
            continue  # it has ended in order meanwhile
        message = f"The run's {mark or 'process'} has died: {DIED}."
        if current.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(current, message)
        else:
            instance.report_run_failed(current, message)
        ended.append(run.run_id)
    _free_pools_of_the_dead(instance)
    return ended


def holders(instance: dg.DagsterInstance, pool: str) -> list[str]:
    """Who has the slots of a pool: run, step, partition, since when, process; in words."""
    found = []
    for slot in instance.event_log_storage.get_concurrency_info(pool).claimed_slots:
        run = instance.get_run_by_id(slot.run_id)
        if run is not None:
            found.append(_in_words(run, slot.step_key, instance))
    return found


@contextmanager
def cancelled_in_time(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """While the block executes a run, an interrupt of this process cancels the run in Dagster."""
    with noticed(
        Notice(lambda: mark_cancelling(instance, run_id), lambda: cancel(instance, run_id))
    ):
        yield


def was_interrupted(run: dg.DagsterRun) -> bool:
    """Whether a run was cancelled with its servers or the machine, and not by a person."""
    is_cancelled = run.status == dg.DagsterRunStatus.CANCELED
    return is_cancelled and run.tags.get(INTERRUPTED_TAG) == run.run_id


def mark_cancelling(instance: dg.DagsterInstance, run_id: str) -> None:
    """Let Dagster know that a run at work is being cancelled, so that it will not say "failed".

    One that a person terminates in Dagster is being cancelled before its process hears of it. Any
    other was interrupted by the end of its servers or of the machine, and is tagged so.
    """
    run = instance.get_run_by_id(run_id)
    if run is not None and run.status in BEGUN:
        instance.add_run_tags(run_id, {INTERRUPTED_TAG: run_id})
        instance.report_run_canceling(run, "The run's process was asked to end.")


def cancel(instance: dg.DagsterInstance, run_id: str) -> None:
    """Let Dagster say that an interrupted run is cancelled, and free what it holds."""
    run = instance.get_run_by_id(run_id)
    if run is not None and run.status not in ENDED:
        instance.report_run_canceled(run, "The run was interrupted, and its process ended.")
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)


def wait_for(instance: dg.DagsterInstance, pool: str) -> None:
    """Return when the pool has a free slot; meanwhile progress says who has it.

    Runs that die are ended, so that nobody waits for them.
    """
    waited = 0
    while True:
        info = instance.event_log_storage.get_concurrency_info(pool)
        if info.slot_count == 0 or len(info.claimed_slots) < info.slot_count:
            return
        if waited % DEATHS_LOOKED_FOR == 0:
            end_dead_runs(instance)
        for holder in holders(instance, pool):
            progress.report(f"waiting for the {pool}; it is taken by {holder}", 0, 0)
        time.sleep(1)
        waited += 1


def _lost_on_its_way(run: dg.DagsterRun) -> bool:
    """Whether a run has no process yet, and the code server that was to start it is gone."""
    with suppress(KeyError, ValueError):
        server = json.loads(run.tags[LAUNCHED_BY])
        if path := server.get("socket"):
            return not _answers(socket.AF_UNIX, path)
        if server["host"] in ("localhost", "127.0.0.1"):
            return not _answers(socket.AF_INET, ("127.0.0.1", int(server["port"])))
    return False


def _answers(family: int, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as probe:
        probe.settimeout(2)
        try:
            probe.connect(address)
        except TimeoutError:
            return True
        except OSError:
            return False
    return True


def _free_pools_of_the_dead(instance: dg.DagsterInstance) -> None:
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        mark = process_of(run) if run else None
        if run is None or (run.is_finished and (mark is None or has_ended(mark))):
            storage.free_concurrency_slots_for_run(run_id)


def _in_words(run: dg.DagsterRun, step: str, instance: dg.DagsterInstance) -> str:
    partition = run.tags.get("dagster/partition", "").replace("|", " ")
    words = [f"run {run.run_id[:8]}", f"{step} {partition}".rstrip()]
    record = instance.get_run_record_by_id(run.run_id)
    if record and record.start_time:
        words.append(f"since {datetime.fromtimestamp(record.start_time):%Y-%m-%d %H:%M:%S}")
    if mark := process_of(run):
        words.append(str(mark))
    return ", ".join(words)
