"""Tracking and registry against real stores: SQLite, and a server that dies and comes back."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import dagster as dg
import pytest

from corgi_core.errors import CorgiError
from corgi_core.io.model_index import CHAMPION, ModelIndex, TextEncoderName
from orchestration.resources.model_registry import Registry
from orchestration.resources.outbox import deliver_left_over
from orchestration.resources.tracking import IDENTITY_TAG, RUN_TAG, MLflow
from orchestration.settings import Settings

STEPS = 5


def resource(folder: Path, tracking_uri: str | None = None) -> MLflow:
    return MLflow.of(settings(folder, tracking_uri))


def settings(folder: Path, tracking_uri: str | None = None) -> Settings:
    environment = {"CORGI_HOME": str(folder / ".corgi"), "CORGI_DATA": str(folder / "data")}
    more = {"MLFLOW_TRACKING_URI": tracking_uri} if tracking_uri else {}
    return Settings.from_environment(environment | more)


def train(mlflow: MLflow, identity: str = "one", steps: int = STEPS) -> dg.ExecuteInProcessResult:
    """A "training" inside a real asset run, which logs its steps."""

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["10%"]))
    def prior(context: dg.AssetExecutionContext, mlflow: MLflow) -> None:
        inputs = {"images": "abc"}
        with mlflow.run(context, "prior-10pc", identity, inputs, {"width": 64}) as run:
            for step in range(1, steps + 1):
                run.log_metrics({"step": step, "time": 1e9 + step, "loss": 1 / step, "note": "x"})
            url = run.url
        context.add_output_metadata({"mlflow_run": url or "none"})

    return dg.materialize([prior], resources={"mlflow": mlflow}, partition_key="10%")


def url_of(result: dg.ExecuteInProcessResult) -> str:
    (event,) = result.asset_materializations_for_node("prior")
    return str(event.metadata["mlflow_run"].value)


def test_a_training_is_a_run_with_links_both_ways(tmp_path: Path) -> None:
    mlflow = resource(tmp_path)
    result = train(mlflow)
    client = mlflow.client()
    (run,) = client.search_runs([mlflow.experiment_id()])
    assert run.info.run_name == "prior-10pc"
    assert run.info.status == "FINISHED"
    assert run.data.tags[RUN_TAG] == result.run_id
    assert run.data.tags["dagster.asset"] == "prior"
    assert run.data.tags["dagster.partition"] == "10%"
    assert run.data.tags["data_version.images"] == "abc"
    assert run.data.params == {"width": "64"}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(s, 1 / s) for s in range(1, STEPS + 1)]
    assert url_of(result).endswith(f"/runs/{run.info.run_id}?workflowType=machine_learning")
    assert run.info.artifact_uri.startswith((tmp_path / ".corgi" / "mlflow").as_uri())
    assert not list((tmp_path / ".corgi" / "emoji" / "outbox").glob("*"))


def test_a_resumed_training_continues_its_run(tmp_path: Path) -> None:
    mlflow = resource(tmp_path)
    train(mlflow, steps=3)
    train(mlflow, steps=STEPS)
    train(mlflow, identity="another")
    runs = mlflow.client().search_runs([mlflow.experiment_id()])
    assert sorted(run.data.tags[IDENTITY_TAG] for run in runs) == ["another", "one"]
    for run in runs:
        history = mlflow.client().get_metric_history(run.info.run_id, "loss")
        assert [m.step for m in history] == list(range(1, STEPS + 1))  # nothing twice


def test_a_failed_training_is_a_failed_run(tmp_path: Path) -> None:
    mlflow = resource(tmp_path)

    @dg.asset
    def prior(context: dg.AssetExecutionContext, mlflow: MLflow) -> None:
        with mlflow.run(context, "prior", "one", {}, {}):
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        dg.materialize([prior], resources={"mlflow": mlflow})
    (run,) = mlflow.client().search_runs([mlflow.experiment_id()])
    assert run.info.status == "FAILED"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(folder: Path, port: int) -> Iterator[str]:
    """MLflow's own server on an SQLite store in `folder`."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/served.db",
        "--artifacts-destination", str(folder / "served"),
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = (folder / "server.log").open("ab")
    server = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while True:
            assert server.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < until, (folder / "server.log").read_text()
            try:
                urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@dataclass
class Model:
    """The smallest artefact: a folder that states its digest."""

    digest: str
    card: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "ensemble.json").write_text(json.dumps({"digest": self.digest}))

    @classmethod
    def load(cls, folder: Path) -> "Model":
        return cls(json.loads((folder / "ensemble.json").read_text())["digest"])


def test_a_dead_server_fails_nothing_and_gets_all_later(tmp_path: Path) -> None:
    """Also: the registry and its champions through the server."""
    port = free_port()
    mlflow = resource(tmp_path, f"http://127.0.0.1:{port}")
    began = time.monotonic()
    assert train(mlflow).success
    assert url_of(train(mlflow, "two")) == "none"
    assert time.monotonic() - began < 60
    outbox = Path(mlflow.outbox)
    assert len(list(outbox.glob("*.jsonl"))) == 2
    with pytest.raises(CorgiError, match="does not answer"):
        Registry(mlflow)

    with served(tmp_path, port):
        assert train(mlflow, "three").success  # sends what was left before its own
        assert not list(outbox.glob("*.jsonl"))
        client = mlflow.client()
        runs = client.search_runs([mlflow.experiment_id()])
        assert sorted(run.data.tags[IDENTITY_TAG] for run in runs) == ["one", "three", "two"]
        for run in runs:
            history = client.get_metric_history(run.info.run_id, "loss")
            assert [m.step for m in history] == list(range(1, STEPS + 1))
            assert run.info.status == "FINISHED"
        promote_and_read_back(mlflow)
    index = ModelIndex.load(Path(mlflow.models_file))  # the server is gone, and not needed
    assert Model.load(index.folder("prior")).digest == "bbb"


def promote_and_read_back(mlflow: MLflow) -> None:
    registry, path = Registry(mlflow), Path(mlflow.models_file)
    registry.write_index(path, TextEncoderName("minilm", 8))
    with pytest.raises(CorgiError, match="no prior with the alias 'champion'"):
        ModelIndex.load(path).folder("prior")
    first = registry.register("prior", Model("aaa", {"training": "one"}), {"variant": "x"}, "A.")
    second = registry.register("prior", Model("bbb"), {"variant": "y"}, "B.")
    assert registry.register("prior", Model("aaa"), {"variant": "x"}, "A again.") == first
    assert (first, second, registry.added) == ("1", "2", 2)
    for version, digest in ((first, "aaa"), (second, "bbb")):
        registry.promote("prior", version, "the test says so")
        registry.write_index(path, TextEncoderName("minilm", 8))
        assert Model.load(ModelIndex.load(path).folder("prior")).digest == digest
    client = mlflow.client()
    champion = client.get_model_version_by_alias(registry.name("prior"), CHAMPION)
    assert str(champion.version) == second
    assert "test says so" in client.get_registered_model(registry.name("prior")).description
    trained = client.get_model_version(registry.name("prior"), first)
    identity = client.get_run(trained.run_id).data.tags[IDENTITY_TAG]
    assert identity == "one"  # the model lies with the run that trained it


def test_the_registry_on_sqlite(tmp_path: Path) -> None:
    mlflow = resource(tmp_path)
    train(mlflow)
    promote_and_read_back(mlflow)


def test_nothing_left_is_nothing_to_deliver(tmp_path: Path) -> None:
    assert deliver_left_over(tmp_path / "none", lambda: lambda message: None) == 0
