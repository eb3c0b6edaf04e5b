"""MLflow: one run per training and per evaluation, linked to Dagster's runs both ways.

Runs are found again by `identity`, the digest of all that went into them: a resumed training
continues its run. Messages go through an outbox, so a tracking server that is slow or down never
stops a training; MLflow stores a metric that arrives twice only once.
"""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from corgi_core.io.model_index import MODELS_FILE
from orchestration.environment import set_for_library
from orchestration.resources.outbox import Message, Outbox, deliver_left_over
from orchestration.settings import (
    AS_TRAINING,
    SQLITE,
    Settings,
    sqlite_path,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

SERVER_TIMEOUT = 10  # seconds for one answer; tried once, the outbox tries again
PATIENCE = 30.0  # seconds to wait for the last messages when a run ends
METRICS_AT_ONCE = 1000  # MLflow's limit
RUN_TAG, IDENTITY_TAG = "dagster.run_id", "corgi.identity"


class MLflow(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where runs are tracked and models registered."""

    tracking_uri: str
    experiment: str
    artifacts: str  # root folder of runs' artifacts, for experiments that are made here
    outbox: str
    models_file: str  # where the registry's aliases are exported to, for sampling
    address: str  # of the web page, for links
    dagster_address: str

    @classmethod
    def of(cls, settings: Settings) -> MLflow:
        """The server or the local store that the settings name."""
        served = settings.tracking_uri.startswith("http")
        return cls(
            tracking_uri=settings.tracking_uri,
            experiment=settings.workspace,
            artifacts="" if served else settings.mlflow_artifacts.as_uri(),
            outbox=str(settings.state / "outbox"),
            models_file=str(settings.state / MODELS_FILE),
            address=settings.tracking_uri if served else settings.mlflow_page,
            dagster_address=settings.dagster_page,
        )

    def client(self) -> MlflowClient:
        """MLflow's client of the store."""
        return _client(self.tracking_uri)

    def experiment_id(self) -> str:
        """The workspace's experiment, made when it is not there."""
        client = self.client()
        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        location = f"{self.artifacts}/{self.experiment}" if self.artifacts else None
        return str(client.create_experiment(self.experiment, location))

    @contextmanager
    def run(
        self,
        context: dg.AssetExecutionContext,
        name: str,
        identity: str,
        inputs: Mapping[str, str],
        parameters: Mapping[str, Any],
    ) -> Iterator[TrackedRun]:
        """Track what the block does as the run `name`; `inputs` are data versions by asset."""
        deliver_left_over(Path(self.outbox), lambda: _Receiver(self))
        run = TrackedRun(self, name, identity, self._tags(context, inputs), parameters)
        try:
            yield run
        except BaseException:
            run.end("FAILED")
            raise
        run.end("FINISHED")

    def _tags(self, context: dg.AssetExecutionContext, inputs: Mapping[str, str]) -> dict[str, str]:
        partition = context.partition_key if context.has_partition_key else ""
        return {
            RUN_TAG: context.run_id,
            "dagster.run_url": f"{self.dagster_address}/runs/{context.run_id}",
            "dagster.asset": context.asset_key.to_user_string(),
            "dagster.partition": partition,
            **{f"data_version.{asset}": version for asset, version in inputs.items()},
        }


class TrackedRun:
    """A run of MLflow's; nothing here waits for the server, and nothing fails with it."""

    def __init__(
        self,
        mlflow: MLflow,
        name: str,
        identity: str,
        tags: Mapping[str, str],
        parameters: Mapping[str, Any],
    ) -> None:
        self._mlflow = mlflow
        self._receiver = _Receiver(mlflow)
        self._outbox = Outbox(Path(mlflow.outbox) / f"{uuid.uuid4().hex}.jsonl", self._receiver)
        self._send("start", name=name, tags={**tags, IDENTITY_TAG: identity})
        self._send("parameters", values={key: str(value) for key, value in parameters.items()})

    def log_metrics(self, entry: Mapping[str, Any]) -> None:
        """One line of a training's metrics log: its "step", its "time", and numbers by name."""
        numbers = {
            key: float(value)
            for key, value in entry.items()
            if key not in ("step", "time")
            and isinstance(value, int | float)
            and math.isfinite(value)
        }
        moment = int(1000 * float(entry.get("time") or time.time()))
        self._send("metrics", step=int(entry.get("step", 0)), moment=moment, values=numbers)

    def log_artifacts(self, folder: Path, name: str | None = None) -> None:
        """Copy a folder's files, which must stay there, to the run's folder `name`."""
        self._send("artifacts", folder=str(folder), name=name)

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None where the server did not answer in time."""
        self._receiver.started.wait(SERVER_TIMEOUT)
        return self._receiver.run_id

    @property
    def url(self) -> str | None:
        """The run's page; None where the server did not answer in time."""
        if self.run_id is None:
            return None
        experiment = self._receiver.experiment_id
        page = f"experiments/{experiment}/runs/{self.run_id}?{AS_TRAINING}"
        return f"{self._mlflow.address}/#/{page}"

    def end(self, status: str) -> None:
        """End the run as FINISHED or FAILED; waits a while for the last messages."""
        self._send("end", status=status, moment=int(1000 * time.time()))
        self._outbox.close(PATIENCE)

    def _send(self, kind: str, **content: Any) -> None:
        self._outbox.put({"kind": kind, **content})


class _Receiver:
    """Puts one run's messages into the store. A message that comes twice changes nothing."""

    def __init__(self, mlflow: MLflow) -> None:
        self._mlflow = mlflow
        self.run_id: str | None = None
        self.experiment_id: str | None = None
        self.started = threading.Event()  # or known to be impossible for now

    def __call__(self, message: Message) -> None:
        content = dict(message)
        try:
            getattr(self, f"_{content.pop('kind')}")(self._mlflow.client(), **content)
        finally:
            self.started.set()

    def _start(self, client: MlflowClient, name: str, tags: dict[str, str]) -> None:
        self.experiment_id = self._mlflow.experiment_id()
        same = f"tags.`{IDENTITY_TAG}` = '{tags[IDENTITY_TAG]}'"
        for found in client.search_runs([self.experiment_id], same, max_results=1):
            self.run_id = found.info.run_id
            client.update_run(self.run_id, status="RUNNING")
            for key, value in tags.items():
                client.set_tag(self.run_id, key, value)
            return
        self.run_id = client.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id

    def _parameters(self, client: MlflowClient, values: dict[str, str]) -> None:
        from mlflow.entities import Param

        client.log_batch(
            self._known_run, params=[Param(key, value) for key, value in values.items()]
        )

    def _metrics(
        self, client: MlflowClient, step: int, moment: int, values: dict[str, float]
    ) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(key, value, moment, step) for key, value in values.items()]
        for first in range(0, len(metrics), METRICS_AT_ONCE):
            client.log_batch(self._known_run, metrics=metrics[first : first + METRICS_AT_ONCE])

    def _artifacts(self, client: MlflowClient, folder: str, name: str | None) -> None:
        if Path(folder).is_dir():
            client.log_artifacts(self._known_run, folder, artifact_path=name)

    def _end(self, client: MlflowClient, status: str, moment: int) -> None:
        client.set_terminated(self._known_run, status, end_time=moment)

    @property
    def _known_run(self) -> str:
        assert self.run_id is not None, "a run's first message starts it"
        return self.run_id


@cache
def _client(tracking_uri: str) -> MlflowClient:
    """A client that answers or fails within seconds; the outbox, not the client, tries again."""
    set_for_library(
        {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": str(SERVER_TIMEOUT),
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        }
    )
    from mlflow import MlflowClient

    if tracking_uri.startswith(SQLITE):
        sqlite_path(tracking_uri).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri, registry_uri=tracking_uri)
