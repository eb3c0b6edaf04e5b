"""MLflow slow, refusing, busy or down: a training goes on, and every metric is there afterwards."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestration.resources import outbox
from orchestration.resources.outbox import deliver_left_over
from orchestration.resources.run_messages import IDENTITY_TAG, Receiver
from orchestration.resources.tracking import MLflow, TrackedRun
from orchestration.settings import Settings
from tests.helpers import forked

RUN = {"run_id": "r1", "run_uuid": "r1", "experiment_id": "7", "status": "RUNNING",
       "start_time": 1, "artifact_uri": "file:///nowhere", "lifecycle_stage": "active"}  # fmt: skip


class Server(ThreadingHTTPServer):
    """A tracking server of one run, over HTTP, which fails as `fault` says: a status, or 0."""

    daemon_threads = True
    fault: Callable[[], int | None] = staticmethod(lambda: None)

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.metrics: list[tuple[str, int]] = []
        self.statuses: list[str] = []
        self.asked = 0

    def answer(self, call: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if call == "runs/log-batch":
            names = [metric["key"] for metric in body.get("metrics", [])]
            if "refused" in names:
                return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "not this one"}
            self.metrics += [(m["key"], int(m["step"])) for m in body.get("metrics", [])]
        elif call == "runs/update":
            self.statuses.append(body["status"])
        elif call == "experiments/get-by-name":
            return 200, {"experiment": {"experiment_id": "7", "lifecycle_stage": "active"}}
        return 200, {"run": {"info": RUN, "data": {}}, "run_info": RUN, "runs": []}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.asked += 1
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        fault = self.server.fault()
        if fault is None:
            call = self.path.partition("/mlflow/")[2].partition("?")[0]
            self.reply(*self.server.answer(call, body))
        elif fault:
            self.reply(fault, {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "later"})
        else:
            self.close_connection = True  # without an answer, as a server that dies

    def do_GET(self) -> None:
        self.do_POST()

    def reply(self, status: int, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(outbox, "FIRST_RETRY", 0.02)
    monkeypatch.setattr(outbox, "LONGEST_RETRY", 0.05)
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def mlflow(server: Server, tmp_path: Path) -> MLflow:
    environment = {
        "CORGI_HOME": str(tmp_path),
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server.server_port}",
    }
    return MLflow.of(Settings.from_environment(environment))


def opened(mlflow: MLflow) -> TrackedRun:
    return TrackedRun(mlflow, "start", name="prior", tags={IDENTITY_TAG: "i"}, moment=1)


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_server_that_fails_in_all_ways_has_every_metric_in_the_end(
    server: Server, mlflow: MLflow
) -> None:
    moments = iter([0, 0, 429, 429, 503, 0, None, None, 429, None, 0, 503, None, None, None, 429])

    def fault() -> int | None:
        time.sleep(0.005)  # slow besides
        return next(moments, None)

    server.fault = fault
    began = time.monotonic()
    run = opened(mlflow)
    for step in range(60):
        run.log_metrics({"step": step, "time": 1e9, "loss": 0.5})
        if step == 20:
            run.log_metrics({"step": step, "time": 1e9, "refused": 0.5})  # holds back no other
    assert time.monotonic() - began < 2  # the training waits for nothing
    wait_for(lambda: len(server.metrics) >= 60)
    run.end("FINISHED")
    assert sorted(set(server.metrics)) == [("loss", step) for step in range(60)]
    assert server.statuses[-1] == "FINISHED"
    assert not list(Path(mlflow.outbox).glob("*.jsonl"))


def test_a_server_that_is_down_to_the_end_gets_everything_from_the_next_process(
    server: Server, mlflow: MLflow
) -> None:
    server.fault = lambda: 0
    run = opened(mlflow)
    for step in range(30):
        run.log_metrics({"step": step, "time": 1e9, "loss": 0.5})
    began = time.monotonic()
    run.end("FINISHED")
    assert time.monotonic() - began < 15
    assert server.asked
    assert not server.metrics
    server.fault = lambda: None
    assert deliver_left_over(Path(mlflow.outbox), lambda: Receiver(mlflow)) == 1
    assert server.metrics == [("loss", step) for step in range(30)]
    assert server.statuses[-1] == "FINISHED"


FIRST_START = """
import os, time
from pathlib import Path
from orchestration.resources.tracking import MLflow
from orchestration.settings import Settings
mlflow = MLflow.of(Settings.from_environment(os.environ))
Path(f"ready-{os.getpid()}").touch()
while len(list(Path(".").glob("ready-*"))) < 2: time.sleep(0.002)
print(mlflow.experiment_id())
"""


def test_two_first_starts_at_once_make_one_database(tmp_path: Path) -> None:
    environment = os.environ | {"CORGI_HOME": str(tmp_path / "home")}
    logs = [tmp_path / name for name in ("first", "second")]
    programs = [forked.start(FIRST_START, [], environment, tmp_path, log) for log in logs]
    assert [program.wait() for program in programs] == [0, 0], [log.read_text() for log in logs]
    assert {log.read_text().split()[-1] for log in logs} == {"1"}


def test_an_experiment_that_somebody_deleted_is_restored_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow = MLflow.of(Settings.from_environment({"CORGI_HOME": str(tmp_path)}))
    experiment = mlflow.experiment_id()
    mlflow.client().delete_experiment(experiment)
    assert mlflow.experiment_id() == experiment
    assert "was deleted in MLflow, and is restored" in caplog.text
    assert mlflow.client().get_experiment(experiment).lifecycle_stage == "active"
