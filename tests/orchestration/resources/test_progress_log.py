"""A step's log says how far it is: at the start, then at a pace, with speed, rest and link."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import dagster as dg
import pytest

from corgi_core import progress
from corgi_core.training.metrics_log import headline
from orchestration.automation.jobs import _Log
from orchestration.resources import progress_log
from orchestration.resources.compute import Compute
from orchestration.resources.progress_log import ProgressLog, in_words, progress_logged


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_at_a_pace_with_speed_and_rest() -> None:
    lines: list[str] = []
    clock = Clock()
    log = ProgressLog(lines.append, pace=30, clock=clock)
    for clock.now in range(61):
        log("embedding images", 10 * int(clock.now), 1000)
    log("waiting for the device", 0, 0)
    log("all there already", 7, 7)
    assert lines == [
        "embedding images: 0 of 1,000",
        "embedding images: 300 of 1,000, 10 a second, 1 min 10 s left",
        "embedding images: 600 of 1,000, 10 a second, 40 s left",
        "waiting for the device",
    ]


def test_what_changes_from_report_to_report_makes_no_more_lines() -> None:
    lines: list[str] = []
    clock = Clock()
    log = ProgressLog(lines.append, pace=30, clock=clock)
    for clock.now in range(31):
        log(headline("prior", {"loss": 1 / (1 + clock.now)}), 10 * int(clock.now), 1000)
    assert lines == [
        "prior · loss 1: 0 of 1,000",
        "prior · loss 0.0323: 300 of 1,000, 10 a second, 1 min 10 s left",
    ]


def test_a_jobs_log_says_how_far_the_step_is_that_it_does(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), _Log(logging.getLogger("job")).doing("prior", "is stale"):
        progress.report("waiting for the device", 0, 0)
    progress.report("somebody else", 0, 0)
    assert caplog.messages == ["materialising prior: is stale", "waiting for the device"]


def test_a_trainings_lines_have_step_loss_speed_rest_and_link() -> None:
    lines: list[str] = []
    log = ProgressLog(lines.append, pace=0)
    now = time.time()
    old = {"step": 90, "time": now - 3600, "seconds": 9.0, "loss": 2.0}  # of a killed process
    entries = [
        {"step": s, "time": now + 1, "seconds": s / 10, "loss": 1 / s, "samples_per_second": 640.0}
        for s in (100, 200)
    ]
    for entry in (old, *entries):
        log.training("prior", entry, 36_200, lambda: "http://mlflow/run")
    log.training("prior", {"step": 300, "time": now + 1, "seconds": 30.0}, 300, lambda: None)
    assert lines == [
        "prior: step 100 of 36,200, loss 0.01, 640 samples a second; MLflow: http://mlflow/run",
        "prior: step 200 of 36,200, loss 0.005, 640 samples a second, 1 h 0 min left; "
        "MLflow: http://mlflow/run",
        "prior: step 300 of 300, 0 s left",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (61, "1 min 1 s"), (86_399.6, "1 d 0 h"), (3600, "1 h 0 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def double(common: int, item: int) -> int:
    return common * item


def test_a_runs_events_have_the_progress_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through Dagster's event log; outside of a step nobody listens."""
    monkeypatch.setattr(progress_log, "PACE", 0)

    @dg.asset
    def doubled() -> list[int]:
        return list(Compute(num_workers=0).map(double, 2, [1, 2], "doubling"))

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([doubled], instance=instance)
        assert result.output_for_node("doubled") == [2, 4]
        said = [entry.user_message for entry in instance.all_logs(result.run_id)]
        steps = {
            e.step_key for e in instance.all_logs(result.run_id) if "doubling" in e.user_message
        }
    assert any(line.startswith("doubling: 0 of 2") for line in said)
    assert steps == {"doubled"}
    listeners = len(progress._listeners)
    with progress_logged():
        assert len(progress._listeners) == listeners
