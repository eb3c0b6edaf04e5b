"""MLflow: one run a model, with its training curve and its final scores, linked to Dagster.

Runs are found again by `identity`, the digest of all that went into them: a resumed training
continues its run, and an evaluation adds to the runs of the models that it scores. Messages go
through an outbox, so a tracking server that is slow or down never stops a training.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dagster as dg

from corgi_core.io.locks import exclusive_lock
from corgi_core.io.model_index import MODELS_FILE
from orchestration.environment import set_for_library
from orchestration.resources.interrupts import Notice, noticed
from orchestration.resources.log_context import in_mlflow_run
from orchestration.resources.moments import moment_in
from orchestration.resources.outbox import Outbox, deliver_left_over
from orchestration.resources.run_messages import IDENTITY_TAG, Receiver, end_of_killed
from orchestration.resources.runs import CANCELLED
from orchestration.resources.source_code import git_commit
from orchestration.resources.traces import trace_page
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
AT_ONCE = 1.0  # … when it is cancelled: what is left is delivered by a later process
MIGRATION = 120.0  # seconds to wait for another process that makes or changes the tables
LONGEST = 6000  # characters of a parameter, MLflow's limit
RUN_TAG, RUN_PAGE_TAG, ASSET_PAGE_TAG = "dagster.run_id", "dagster.run_url", "dagster.asset_url"
TRACE_PAGE_TAG = "trace.url"
REFRESH_TAG, RETRAIN_TAG = "corgi/refresh_name", "corgi/retrain_name"
REFRESH_TAGS = (REFRESH_TAG, "dagster/backfill")
"""Tags of Dagster's runs that belong together, the first that a run has; else a run is alone."""

UNTITLED = re.compile(r"[^\w\-. ]+", re.ASCII)  # what no picture's title may have
log = logging.getLogger(__name__)
CHANGING = ("decoder",)  # a prior's pictures may be decoded by another one


@dataclass(frozen=True)
class Parent:
    """A run of MLflow's that others are below: a refresh, a study, an evaluation."""

    name: str
    identity: str
    description: str = ""


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
        served = settings.mlflow_is_served
        page = settings.mlflow_page if settings.access.mlflow_url else settings.tracking_uri
        return cls(
            tracking_uri=settings.tracking_uri,
            experiment=settings.workspace,
            artifacts="" if served else settings.mlflow_artifacts.as_uri(),
            outbox=str(settings.state / "outbox"),
            models_file=str(settings.state / MODELS_FILE),
            address=page if served else settings.mlflow_page,
            dagster_address=settings.dagster_page,
        )

    def client(self) -> MlflowClient:
        """MLflow's client of the store."""
        return _client(self.tracking_uri)

    def experiment_id(self) -> str:
        """The workspace's experiment, made when it is not there, and restored when deleted."""
        from mlflow.exceptions import MlflowException

        client = self.client()
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            location = f"{self.artifacts}/{self.experiment}" if self.artifacts else None
            try:
                return str(client.create_experiment(self.experiment, location))
            except MlflowException as error:
                found = client.get_experiment_by_name(self.experiment)
                if found is None:  # nobody was quicker
                    raise error
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
            log.warning(
                "the experiment %s was deleted in MLflow, and is restored with its runs, as this "
                "workspace goes on; delete single runs, or the workspace",
                self.experiment,
            )
        return str(found.experiment_id)

    @contextmanager
    def run(
        self,
        context: dg.AssetExecutionContext,
        name: str,
        identity: str,
        inputs: Mapping[str, str],
        labels: Mapping[str, Any],
        parent: Parent | None = None,
        description: str = "",
    ) -> Iterator[TrackedRun]:
        """Track what the block does as a run: KILLED where it is cancelled, FAILED at an error.

        Args:
            context: The asset's.
            name: The run's.
            identity: The digest of all that goes into it, by which it is found again.
            inputs: Data versions by asset.
            labels: What runs are compared and filtered by.
            parent: The run that it is below; by default the one of its refresh.
            description: What it is, for MLflow's page.
        """
        deliver_left_over(Path(self.outbox), lambda: Receiver(self), end_of_killed)
        tags = self.tags(context, inputs, description) | {IDENTITY_TAG: identity}
        above = asdict(parent or _refresh_of(context))
        moment = moment_in(Path(self.outbox))
        run = TrackedRun(self, "start", name=name, tags=tags, moment=moment, parent=above)
        run.log_labels(labels)
        killed = Notice(lambda: None, lambda: run.end("KILLED", AT_ONCE))
        try:
            with noticed(killed), in_mlflow_run(lambda: run.known_id):
                yield run
        except CANCELLED:
            run.end("KILLED", AT_ONCE)
            raise
        except BaseException:
            run.end("FAILED")
            raise
        run.end("FINISHED")

    @contextmanager
    def finished_run(
        self,
        name: str,
        identity: str,
        tags: Mapping[str, str],
        labels: Mapping[str, Any],
    ) -> Iterator[TrackedRun]:
        """The run that trained a model, to add to it; made anew where it is gone.

        Args:
            name: Of a run that is made anew.
            identity: The training's.
            tags: Of a run that is made anew.
            labels: What runs are compared and filtered by.
        """
        run = TrackedRun(self, "find", name=name, tags={**tags, IDENTITY_TAG: identity})
        run.log_labels(labels)
        try:
            yield run
        finally:
            run.close()

    def comparison(self, runs: Iterable[TrackedRun]) -> str | None:
        """The page that compares the runs that the server has; None where it has none of them."""
        found = [(run.run_id, run.experiment_id) for run in runs if run.run_id is not None]
        if not found:
            return None
        ids = quote(json.dumps([run_id for run_id, _ in found]))
        return f"{self.address}/#/compare-runs?runs={ids}&experiments=%5B%22{found[0][1]}%22%5D"

    def tags(
        self, context: dg.AssetExecutionContext, inputs: Mapping[str, str], description: str = ""
    ) -> dict[str, str]:
        """What a run says of Dagster's run, of the source and of the data versions."""
        partition = context.partition_key if context.has_partition_key else ""
        asset, commit = context.asset_key.to_user_string(), git_commit()
        of_asset = self.asset_tags(asset, partition)
        run_page = f"{self.dagster_address}/runs/{context.run_id}"
        versions = [f"- {asset}: `{version}`" for asset, version in inputs.items()]
        asset_page = of_asset[ASSET_PAGE_TAG]
        links = f"In Dagster: [the asset {asset}]({asset_page}), [its run]({run_page})"
        note = [links, description]  # MLflow's page hides all but the first lines
        note += ["\n".join(["Data versions:", "", *versions])] if versions else []
        return {
            RUN_TAG: context.run_id,
            RUN_PAGE_TAG: run_page,
            **({TRACE_PAGE_TAG: trace} if (trace := trace_page()) else {}),
            **of_asset,
            "mlflow.note.content": "\n\n".join(filter(None, note)),
            "mlflow.source.name": f"Dagster asset {asset}",
            "mlflow.source.type": "LOCAL",
            **({"mlflow.source.git.commit": commit} if commit else {}),
            **{f"data_version.{asset}": version for asset, version in inputs.items()},
        }

    def asset_tags(self, asset: str, partition: str) -> dict[str, str]:
        """Which asset's partition a run made, and its page in Dagster."""
        page = f"{self.dagster_address}/assets/{asset}"
        page += f"?view=partitions&partition={quote(partition, safe='')}" if partition else ""
        return {
            "dagster.asset": asset, "dagster.partition": partition, ASSET_PAGE_TAG: page
        }  # fmt: skip


def picture_title(text: str) -> str:
    """A picture's title, without what MLflow takes in none.

    Examples:
        >>> picture_title("00 a red apple, “noto” style")
        '00 a red apple noto style'
    """
    return " ".join(UNTITLED.sub(" ", text).split())


def _refresh_of(context: dg.AssetExecutionContext) -> Parent:
    """The run above all runs of one retrain, refresh or backfill; of a lone run, of that."""
    tags = context.run.tags
    if RETRAIN_TAG in tags:
        name = f"retrain-{tags[RETRAIN_TAG]}"
        return Parent(name, name, "A retrain: priors that continue from champions, scored anew.")
    refresh = next((tags[tag] for tag in REFRESH_TAGS if tag in tags), context.run_id[:8])
    name = f"refresh-{refresh}"
    return Parent(name, name, "What Dagster materialised together is below this run.")


class TrackedRun:
    """A run of MLflow's; nothing here waits for the server, and nothing fails with it."""

    def __init__(self, mlflow: MLflow, opening: str, **content: Any) -> None:
        """Open the run by a message of the kind `opening`, "start" or "find"."""
        self._mlflow = mlflow
        self._receiver = Receiver(mlflow)
        self._outbox = Outbox(Path(mlflow.outbox) / f"{uuid.uuid4().hex}.jsonl", self._receiver)
        self._send(opening, **content)

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """What was decided before the run began."""
        values = {key: str(value)[:LONGEST] for key, value in parameters.items()}
        self._send("parameters", values=values)

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

    def log_labels(self, labels: Mapping[str, Any]) -> None:
        """What people filter by: parameters, and tags where another evaluation may change them."""
        changing = {name: str(labels[name]) for name in CHANGING if name in labels}
        self.log_tags(changing)
        self.log_parameters({name: v for name, v in labels.items() if name not in changing})

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """What may change."""
        self._send("tags", values=dict(tags))

    def log_datasets(self, context: str, datasets: Sequence[Mapping[str, str]]) -> None:
        """Data that the run reads: "name", "digest" and "uri" of each.

        `context` says what for: "train" or "eval".
        """
        self._send("datasets", context=context, values=[dict(each) for each in datasets])

    def log_artifacts(self, paths: Iterable[Path], name: str | None = None) -> None:
        """Copy files and folders' files, which must stay there, to the run's folder `name`."""
        self._send("artifacts", paths=[str(path) for path in paths], name=name)

    def log_pictures(self, files: Mapping[str, Path]) -> None:
        """Pictures by the titles under which MLflow has them side by side for several runs.

        The files must stay there. The same ones are sent once; others are the next step.
        """
        named = {picture_title(title): str(path) for title, path in files.items()}
        self._send("pictures", files=named)

    def share_view(self, name: str, content: Mapping[str, Any]) -> None:
        """Store a view of the run's experiment, as `priors_view` makes it, under a name."""
        self._send("view", name=name, content=dict(content))

    def view_url(self, name: str) -> str | None:
        """The page of the experiment's view; None where the server did not answer in time."""
        if self.experiment_id is None:
            return None
        charts = f"runs?{AS_TRAINING}&compareRunsMode=CHART&viewStateShareKey={quote(name)}"
        return f"{self._mlflow.address}/#/experiments/{self.experiment_id}/{charts}"

    @property
    def known_id(self) -> str | None:
        """MLflow's id of the run; None as long as the server has not answered."""
        return self._receiver.run_id

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None where the server did not answer in time."""
        self._receiver.opened.wait(SERVER_TIMEOUT)
        return self._receiver.run_id

    @property
    def experiment_id(self) -> str | None:
        """MLflow's id of the run's experiment; None where the server did not answer in time."""
        self._receiver.opened.wait(SERVER_TIMEOUT)
        return self._receiver.experiment_id

    @property
    def url(self) -> str | None:
        """The run's page; None where the server did not answer in time."""
        if self.run_id is None:
            return None
        page = f"experiments/{self.experiment_id}/runs/{self.run_id}?{AS_TRAINING}"
        return f"{self._mlflow.address}/#/{page}"

    def artifact_url(self, path: str) -> str | None:
        """The page of a file of the run's; None where the server did not answer in time."""
        if self.url is None:
            return None
        page, _, options = self.url.partition("?")
        return f"{page}/artifacts/{quote(path)}?{options}"

    def end(self, status: str, patience: float = PATIENCE) -> None:
        """End the run as FINISHED, FAILED or KILLED; waits a while for the last messages."""
        self._send("end", status=status, moment=moment_in(Path(self._mlflow.outbox)))
        self._outbox.close(patience)

    def close(self) -> None:
        """Wait a while for the last messages."""
        self._outbox.close(PATIENCE)

    def _send(self, kind: str, **content: Any) -> None:
        self._outbox.put({"kind": kind, **content})


@cache
def _client(tracking_uri: str) -> MlflowClient:
    """A client that answers or fails within seconds; the outbox, not the client, tries again."""
    set_for_library(
        {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": str(SERVER_TIMEOUT),
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        }
    )
    from mlflow import MlflowClient

    if not tracking_uri.startswith(SQLITE):
        return MlflowClient(tracking_uri, registry_uri=tracking_uri)
    database = sqlite_path(tracking_uri)
    busy = f"another process makes the tables of {database}"
    with exclusive_lock(database.with_suffix(".lock"), busy, MIGRATION):
        return MlflowClient(tracking_uri, registry_uri=tracking_uri)
