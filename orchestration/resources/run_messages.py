"""Delivers the messages of one run of MLflow's to the store.

A message that comes twice changes nothing: runs are found again by their identity, and MLflow
stores a metric, a parameter or a dataset that arrives twice only once.
"""

from __future__ import annotations

import json
import posixpath
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corgi_core.io.files import digest_of, digest_of_file
from corgi_core.io.locks import exclusive_lock
from orchestration.resources.mlflow_views import IMAGE, VIEW_TAG
from orchestration.resources.outbox import Message, UndeliverableError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from orchestration.resources.tracking import MLflow

METRICS_AT_ONCE = 1000  # MLflow's limit
UNKEYED = re.compile(r"[^\w\-./: ]", re.ASCII)  # what no key may have
LONGEST_KEY = 250  # characters
IDENTITY_TAG, PARENT_TAG = "corgi.identity", "mlflow.parentRunId"
PROTOCOL_TAG = "corgi.protocol"  # the digest of the protocol that a run's scores are of
SCORES_FOLDER = "evaluation"  # of a run's artifacts: scores caption by caption, and the protocol
PICTURES_TAG = "corgi.pictures"  # the digests of the sets of pictures that were sent, in order
CONTEXT_TAG = "mlflow.data.context"
GROUP_TAG, GROUP = "mlflow.source.name", "Dagster"  # what only runs have that others are below
IMPOSSIBLE = {"INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST"}
"""MLflow's codes for what no later attempt would change.

BAD_REQUEST is none: a database that is restarted answers so.
"""
LOCK = "runs.lock"  # in the outbox's folder: who looks for a run and makes it
LOCK_PATIENCE = 30.0  # seconds


def key_of(name: str) -> str:
    """The key of a tag, parameter or metric: the name where MLflow takes it, else one like it.

    Of other characters and of relative paths MLflow refuses the whole batch. What is too long ends
    in a digest instead, so that two names never have one key.

    Examples:
        >>> key_of("data_version.small suite/alignment")
        'data_version.small suite/alignment'
        >>> key_of("../priors/kandinsky (1)")
        '_.._priors_kandinsky _1_'
    """
    key = UNKEYED.sub("_", name)
    if posixpath.normpath(key) != key or key.startswith(("/", "..")):
        key = "_" + key.replace("/", "_")
    return key if len(key) <= LONGEST_KEY else f"{key[: LONGEST_KEY - 9]}-{digest_of(name)[:8]}"


def run_with_identity(client: MlflowClient, experiment: str, identity: str) -> Run | None:
    """The run that has this identity, if there is one; of several the newest."""
    same = f"tags.`{IDENTITY_TAG}` = '{identity}'"
    return next(iter(client.search_runs([experiment], same, max_results=1)), None)


def end_of_killed(messages: Sequence[Message], moment: int) -> list[Message]:
    """The end of a run whose process died at `moment`, in milliseconds; nothing where it ended."""
    kinds = [message.get("kind") for message in messages]
    if kinds[:1] != ["start"] or "end" in kinds:
        return []
    moment = max(moment, messages[0]["moment"])  # a disk's clock is coarser
    return [{"kind": "end", "status": "KILLED", "moment": moment}]


def _only_groups(run: Run) -> bool:
    """Whether a run is nothing but above others: it ends with them, and not by itself."""
    return bool(run.data.tags.get(GROUP_TAG) == GROUP)


class Receiver:
    """Puts one run's messages into the store."""

    def __init__(self, mlflow: MLflow) -> None:
        self._mlflow = mlflow
        self.run_id: str | None = None
        self.experiment_id: str | None = None
        self.opened = threading.Event()  # or known to be impossible for now

    def __call__(self, message: Message) -> None:
        """Deliver one message.

        Raises:
            UndeliverableError: the store refuses it, and would refuse it again.
        """
        from mlflow.exceptions import MlflowException

        content = dict(message)
        kind = content.pop("kind", None)
        try:
            getattr(self, f"_{kind}")(self._mlflow.client(), **content)
        except MlflowException as error:
            if error.error_code in IMPOSSIBLE:
                raise UndeliverableError(f"{kind}: {error.message}") from error
            raise
        except (TypeError, AttributeError, KeyError) as error:  # of another version of Corgi
            raise UndeliverableError(f"{kind}: {error!r}") from error
        finally:
            self.opened.set()

    def _start(
        self,
        client: MlflowClient,
        name: str,
        tags: dict[str, str],
        moment: int,
        parent: Mapping[str, str] | None = None,
    ) -> None:
        """Continue the run of this identity, or begin it, below its parent.

        A message that comes after the end of a later attempt changes nothing.
        """
        with self._alone():
            self.experiment_id = self._mlflow.experiment_id()
            found = run_with_identity(client, self.experiment_id, tags[IDENTITY_TAG])
            self.run_id = found.info.run_id if found else None
            if found and (found.info.end_time or 0) > moment:
                return
            if parent is not None:
                tags = {**tags, PARENT_TAG: self._parent(client, parent, moment)}
            if found is None:
                tags = {key_of(key): value for key, value in tags.items()}
                run = client.create_run(self.experiment_id, moment, tags, name)
                self.run_id = run.info.run_id
                return
        client.update_run(self._known_run, status="RUNNING")
        self._tags(client, tags)

    def _find(self, client: MlflowClient, name: str, tags: dict[str, str]) -> None:
        """Find the finished run of this identity; where it is gone, make it anew."""
        with self._alone():
            self.experiment_id = self._mlflow.experiment_id()
            found = run_with_identity(client, self.experiment_id, tags[IDENTITY_TAG])
            if found is None:
                tags = {key_of(key): value for key, value in tags.items()}
                found = client.create_run(self.experiment_id, tags=tags, run_name=name)
                client.set_terminated(found.info.run_id)
        self.run_id = found.info.run_id

    def _alone(self) -> AbstractContextManager[None]:
        """While no other process looks for a run that is not there, and makes it."""
        lock = Path(self._mlflow.outbox) / LOCK
        return exclusive_lock(lock, "another run is being opened", LOCK_PATIENCE)

    def _parent(self, client: MlflowClient, parent: Mapping[str, str], moment: int) -> str:
        """The run id of a parent, which is made where nobody has made it yet, and is running."""
        assert self.experiment_id is not None
        tags = {
            IDENTITY_TAG: parent["identity"], "mlflow.note.content": parent["description"],
            GROUP_TAG: GROUP, "mlflow.source.type": "LOCAL",
        }  # fmt: skip
        found = run_with_identity(client, self.experiment_id, parent["identity"])
        if found is None:
            found = client.create_run(self.experiment_id, moment, tags, parent["name"])
        elif found.info.status != "RUNNING" and _only_groups(found):
            client.update_run(found.info.run_id, status="RUNNING")
        return str(found.info.run_id)

    def _tags(self, client: MlflowClient, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        client.log_batch(self._known_run, tags=[RunTag(key_of(k), v) for k, v in values.items()])

    def _parameters(self, client: MlflowClient, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        client.log_batch(self._known_run, params=[Param(key_of(k), v) for k, v in values.items()])

    def _metrics(
        self, client: MlflowClient, step: int, moment: int, values: Mapping[str, float]
    ) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(key_of(key), value, moment, step) for key, value in values.items()]
        for first in range(0, len(metrics), METRICS_AT_ONCE):
            client.log_batch(self._known_run, metrics=metrics[first : first + METRICS_AT_ONCE])

    def _datasets(
        self, client: MlflowClient, context: str, values: Sequence[Mapping[str, str]]
    ) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        tags = [InputTag(CONTEXT_TAG, context)]
        datasets = [
            DatasetInput(
                Dataset(
                    each["name"],
                    each["digest"],
                    each["uri"].partition("://")[0] if "://" in each["uri"] else "local",
                    json.dumps({"uri": each["uri"]}),
                ),
                tags,
            )
            for each in values
        ]
        client.log_inputs(self._known_run, datasets)

    def _artifacts(
        self, client: MlflowClient, paths: Sequence[str], name: str | None = None
    ) -> None:
        """Files and folders; what has been removed meanwhile is left out."""
        for path in map(Path, paths):
            if path.is_dir():
                client.log_artifacts(self._known_run, str(path), artifact_path=name)
            elif path.is_file():
                client.log_artifact(self._known_run, str(path), artifact_path=name)

    def _pictures(self, client: MlflowClient, files: Mapping[str, str]) -> None:
        """Log pictures by title, unless the run has them; a title's steps count its pictures.

        A picture that arrives again has the same timestamp, its file's: it is logged once.
        """
        from PIL import Image

        if not all(Path(path).is_file() for path in files.values()):
            return
        digest = digest_of({title: digest_of_file(Path(path)) for title, path in files.items()})
        known = client.get_run(self._known_run).data.tags.get(PICTURES_TAG, "").split()
        if digest in known:
            return
        there = [file.path for file in client.list_artifacts(self._known_run, "images")]
        for title, path in files.items():
            begin, end = f"images/{title}+step+", "+compressed.webp"  # which MLflow writes last
            whole = [other for other in there if other.startswith(begin) and other.endswith(end)]
            moment = Path(path).stat().st_mtime_ns // 10**6
            if any(f"+timestamp+{moment}+" in other for other in whole):
                continue
            client.log_image(
                self._known_run, Image.open(path), key=title, timestamp=moment, step=len(whole)
            )
        client.set_tag(self._known_run, PICTURES_TAG, " ".join([*known, digest]))

    def _view(self, client: MlflowClient, name: str, content: dict[str, Any]) -> None:
        """Store a view of the experiment, whose pictures are the latest that its runs have."""
        assert self.experiment_id is not None
        runs = client.search_runs([self.experiment_id], content["searchFilter"])
        latest = max((len(run.data.tags.get(PICTURES_TAG, "").split()) for run in runs), default=0)
        for chart in content["compareRunCharts"]:
            if chart["type"] == IMAGE:
                chart["step"] = max(0, latest - 1)
        client.set_experiment_tag(self.experiment_id, VIEW_TAG + name, json.dumps(content))

    def _end(self, client: MlflowClient, status: str, moment: int) -> None:
        """End the run, and with it, for now, its parent, unless a later attempt has begun or ended.

        A parent has failed, or was killed, while one of its runs has or was.
        """
        run = client.get_run(self._known_run)
        if moment < max(run.info.start_time or 0, run.info.end_time or 0):
            return
        client.set_terminated(self._known_run, status, end_time=moment)
        parent = run.data.tags.get(PARENT_TAG)
        if parent is None or not _only_groups(client.get_run(parent)):
            return
        below = f"tags.`{PARENT_TAG}` = '{parent}' and attributes.status = "
        for worse in ("FAILED", "KILLED"):
            if client.search_runs([run.info.experiment_id], f"{below}'{worse}'", max_results=1):
                status = worse
                break
        client.set_terminated(parent, status, end_time=moment)

    @property
    def _known_run(self) -> str:
        if self.run_id is None:
            raise UndeliverableError("the run could not be opened")
        return self.run_id
