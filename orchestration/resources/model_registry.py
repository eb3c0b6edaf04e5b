"""MLflow's model registry: model folders, one version a digest, with aliases.

The files of a version are those of a logged model of the run that trained it, so run, scores and
model link to each other. `Registry.write_index` exports the aliases to the workspace's
`models.json`, which sampling reads instead of MLflow (`corgi_core.io.model_index`).
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of
from corgi_core.io.folders import atomic_folder
from corgi_core.io.model_index import PARTS, IndexedModel, ModelIndex, TextEncoderName
from orchestration.resources.artifacts import FolderBacked
from orchestration.resources.run_messages import (
    IDENTITY_TAG,
    IMPOSSIBLE,
    PARENT_TAG,
    key_of,
    run_with_identity,
)
from orchestration.resources.tracking import MLflow

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.entities import PagedList

T = TypeVar("T")
log = logging.getLogger(__name__)
LOGGED_MODEL = re.compile(r"\bm-[0-9a-f]{32}\b")  # its id, in an address
DIGEST_TAG, MODEL_TAG = "digest", "logged_model"
PIPELINE = "pipeline"  # all champions together (`orchestration.resources.served_pipeline`)
VERSIONS_TAG = "mlflow.modelVersions"  # by which MLflow's page of a logged model names its versions


class Registry:
    """The registered models of one workspace. Unlike tracking, registering needs the store."""

    def __init__(self, mlflow: MLflow) -> None:
        self._mlflow = mlflow
        self._client = mlflow.client()
        self.added = 0
        try:
            self._experiment = mlflow.experiment_id()
        except Exception as error:
            raise CorgiError(
                f"the MLflow store {mlflow.tracking_uri} does not answer ({error})",
                "start it (`corgi ui`), or unset MLFLOW_TRACKING_URI, and materialise "
                "registered_models again",
            ) from error

    @property
    def digest(self) -> str:
        """Identifies the versions that have an alias."""
        return digest_of({part: self.aliases(part) for part in PARTS})

    @property
    def state(self) -> Path:
        """The folder of the workspace's state, which has `models.json`."""
        return Path(self._mlflow.models_file).parent

    @property
    def page(self) -> str:
        """MLflow's page of all registered models."""
        return f"{self._mlflow.address}/#/models"

    def name(self, part: str) -> str:
        """The registered model of the workspace's "prior", "decoder", "clip" or "pipeline"."""
        return f"{self._mlflow.experiment}-{part}"

    def register(
        self,
        part: str,
        artifact: FolderBacked,
        tags: Mapping[str, str],
        description: str,
        scores: Mapping[str, float] | None = None,
    ) -> str:
        """The version that holds an artifact; a new one where the registry has none.

        Args:
            part: "prior", "decoder" or "clip".
            artifact: The model.
            tags: Of the version; the model's digest is added to them.
            description: For MLflow's page of the version.
            scores: The model's, by the names that runs have them under.

        Returns:
            The version's number.
        """
        known = self.versions(part)
        wanted = {**tags, DIGEST_TAG: artifact.digest}
        for version in known.values():
            if wanted.items() <= version.tags.items():
                self._client.update_model_version(version.name, version.version, description)
                self._score(version.tags.get(MODEL_TAG), scores or {})
                return str(version.version)
        if not known:
            self._make(self.name(part))
        model = self._store(part, artifact, tags)
        version = self._client.create_model_version(
            self.name(part),
            model.artifact_location,
            model.source_run_id,
            tags={**wanted, MODEL_TAG: model.model_id},
            description=description,
            model_id=model.model_id,
        )
        named = [{"name": version.name, "version": str(version.version)}]
        self._client.set_logged_model_tags(model.model_id, {VERSIONS_TAG: json.dumps(named)})
        self._score(model.model_id, scores or {})
        self.added += 1
        return str(version.version)

    def add(self, part: str, folder: Path, tags: Mapping[str, str], description: str) -> str:
        """A new version of a registered model, which holds the files of a folder of no training.

        The tags are of the version and of its logged model.
        """
        if not self.versions(part):
            self._make(self.name(part))
        model = self._client.create_logged_model(self._experiment, part, tags=dict(tags))
        self._client.log_model_artifacts(model.model_id, str(folder))
        self._client.finalize_logged_model(model.model_id, "READY")
        version = self._client.create_model_version(  # by model_id MLflow would ask another store
            self.name(part), model.artifact_location, tags=dict(tags), description=description
        )
        return str(version.version)

    def alias(self, part: str, alias: str, version: str) -> None:
        """Give a version an alias."""
        self._client.set_registered_model_alias(self.name(part), alias, version)

    def tag(self, part: str, version: str, name: str, value: str) -> None:
        """Give a version a tag."""
        self._client.set_model_version_tag(self.name(part), version, name, value)

    def write_index(self, text_encoder: TextEncoderName) -> None:
        """Write `models.json`: the model folder of every alias of every part.

        A version whose files only MLflow can read is copied beside the file, into `models/`. One
        that Corgi did not register is left out.
        """
        models = {part: dict(self._generating(part)) for part in PARTS}
        index = ModelIndex(self._mlflow.experiment, text_encoder, models)
        index.save(Path(self._mlflow.models_file))

    def _generating(self, part: str) -> Iterator[tuple[str, IndexedModel]]:
        there = self.versions(part)
        for alias, version in self.aliases(part).items():
            if DIGEST_TAG in there[version].tags:
                yield alias, self.model(part, version)
            else:
                log.warning(
                    "the alias %s of %s is left out: version %s was registered by hand",
                    alias, self.name(part), version,
                )  # fmt: skip

    def aliases(self, part: str) -> dict[str, str]:
        """Version by alias, whoever gave it: Corgi, or a user on MLflow's pages."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_registered_model(self.name(part)).aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
        return {alias: str(version) for alias, version in found.items()}

    def model(self, part: str, version: str) -> IndexedModel:
        """The folder and the digest of a version."""
        found, copies = self.versions(part)[version], self.state / "models"
        digest = found.tags[DIGEST_TAG]
        source = urlsplit(str(found.source))
        if source.scheme in ("", "file"):
            return IndexedModel(Path(unquote(source.path)), digest)
        copy = copies / digest
        if not copy.exists():
            from mlflow.artifacts import download_artifacts

            with tempfile.TemporaryDirectory() as temporary, atomic_folder(copy) as folder:
                downloaded = download_artifacts(
                    artifact_uri=found.source, dst_path=temporary,
                    tracking_uri=self._mlflow.tracking_uri,
                )  # fmt: skip
                shutil.copytree(downloaded, str(folder), dirs_exist_ok=True)
        return IndexedModel(copy, digest)

    def versions(self, part: str) -> dict[str, ModelVersion]:
        """The versions of a part by their numbers."""
        found = self._client.search_model_versions(f"name = '{self.name(part)}'")
        return {str(version.version): version for version in found}

    def has(self, version: ModelVersion) -> bool:
        """Whether a version is of the workspace's own registered models."""
        return version.name in map(self.name, (*PARTS, PIPELINE))

    def all_versions(self) -> list[ModelVersion]:
        """The versions of all registered models of the store, other people's too."""
        return _pages(lambda token: self._client.search_model_versions(page_token=token))

    def logged_models(self) -> list[LoggedModel]:
        """The logged models of the workspace's experiment."""
        ids = [self._experiment]
        return _pages(lambda token: self._client.search_logged_models(ids, page_token=token))

    def deleted_runs(self) -> list[Run]:
        """The workspace's runs that people have deleted in MLflow."""
        from mlflow.entities import ViewType

        ids, deleted = [self._experiment], ViewType.DELETED_ONLY
        return _pages(lambda token: self._client.search_runs(ids, "", deleted, page_token=token))

    def deleted_experiments(self) -> list[str]:
        """The names of the store's deleted experiments, other people's too."""
        from mlflow.entities import ViewType

        only = ViewType.DELETED_ONLY
        found = _pages(lambda token: self._client.search_experiments(only, page_token=token))
        return [str(experiment.name) for experiment in found]

    def versions_of_the_deleted(self) -> list[str]:
        """The store's versions whose files are those of a deleted run or logged model."""
        from mlflow.entities import ViewType

        experiments = _pages(lambda token: self._client.search_experiments(page_token=token))
        ids, only = [each.experiment_id for each in experiments], ViewType.DELETED_ONLY
        runs = _pages(lambda token: self._client.search_runs(ids, "", only, page_token=token))
        models = _pages(lambda token: self._client.search_logged_models(ids, page_token=token))
        deleted, there = [run.info.run_id for run in runs], {model.model_id for model in models}
        return [
            f"{version.name} {version.version}"
            for version in self.all_versions()
            if any(run_id in str(version.source) for run_id in deleted)
            or not {*LOGGED_MODEL.findall(str(version.source)), *_model_of(version)} <= there
        ]

    def identities(self, version: ModelVersion) -> set[str]:
        """The identities of the trainings that made a version, of its parts too."""
        from mlflow.exceptions import MlflowException

        if not version.run_id:
            return set()
        try:
            run = self._client.get_run(version.run_id)
        except MlflowException as error:
            if error.error_code not in IMPOSSIBLE:
                raise
            return set()
        below = f"tags.`{PARENT_TAG}` = '{run.info.run_id}'"
        runs = [run, *self._client.search_runs([run.info.experiment_id], below)]
        return {each.data.tags[IDENTITY_TAG] for each in runs if IDENTITY_TAG in each.data.tags}

    def has_artifacts(self, run: Run) -> bool:
        """Whether a run has any files."""
        return bool(self._client.list_artifacts(run.info.run_id))

    def delete_version(self, version: ModelVersion) -> None:
        """Remove a version from the registry; its files stay."""
        self._client.delete_model_version(version.name, str(version.version))

    def delete_logged_model(self, model: LoggedModel) -> None:
        """Remove a logged model; its files stay."""
        self._client.delete_logged_model(model.model_id)

    def delete_artifacts(self, address: str) -> None:
        """Remove all files at an address of MLflow's."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        get_artifact_repository(address, tracking_uri=self._mlflow.tracking_uri).delete_artifacts()

    def _make(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _store(self, part: str, artifact: FolderBacked, tags: Mapping[str, str]) -> LoggedModel:
        """Copy the model folder to a new logged model of the run of its training."""
        from mlflow.entities import LoggedModelOutput

        card = getattr(artifact, "card", {})
        run_id = self._run_of(str(card.get("training") or artifact.digest), part)
        name = "-".join([part, *tags.values()]).replace("%", "pc").replace(".", "_")
        model = self._client.create_logged_model(
            self._experiment, name, run_id, {**tags, DIGEST_TAG: artifact.digest},
            {label: str(value) for label, value in card.get("labels", {}).items()}, part,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / part
            artifact.save(folder)
            self._client.log_model_artifacts(model.model_id, str(folder))
        self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
        return self._client.finalize_logged_model(model.model_id, "READY")

    def _score(self, model_id: str | None, scores: Mapping[str, float]) -> None:
        """Link a logged model to those scores of its run that it does not have yet.

        Nothing where a user has deleted the logged model or its run.
        """
        if model_id is None:  # of an older version of Corgi
            return
        from mlflow.exceptions import MlflowException

        try:
            self._log_scores(self._client.get_logged_model(model_id), scores)
        except MlflowException as error:
            if error.error_code not in IMPOSSIBLE:
                raise
            log.warning("the scores of the logged model %s are left out: %s", model_id, error)

    def _log_scores(self, model: LoggedModel, scores: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        moment = int(1000 * time.time())
        known = {metric.key: metric.value for metric in model.metrics or []}
        metrics = [
            Metric(name, value, moment, 0, model.model_id)
            for name, value in ((key_of(key), value) for key, value in scores.items())
            if known.get(name) != value
        ]
        self._client.log_batch(str(model.source_run_id), metrics=metrics)

    def _run_of(self, identity: str, part: str) -> str:
        """The run with this identity: the training's, or a new one where nothing was trained."""
        run = run_with_identity(self._client, self._experiment, identity)
        if run is None:
            run = self._client.create_run(
                self._experiment, tags={IDENTITY_TAG: identity}, run_name=part
            )
            self._client.set_terminated(run.info.run_id)
        return str(run.info.run_id)


def _model_of(version: ModelVersion) -> set[str]:
    """The id of the logged model that a version names; none where it names none."""
    return {id for id in (version.model_id, version.tags.get(MODEL_TAG)) if id}


def _pages(request: Callable[[str | None], PagedList[T]]) -> list[T]:
    """All that the store answers, page by page."""
    page = request(None)
    found = list(page)
    while page.token:
        page = request(page.token)
        found += page
    return found


def version_of(mlflow: MLflow, part: str, digest: str) -> str | None:
    """The version that holds a model; None where the registry has none, or does not answer."""
    try:
        found = mlflow.client().search_model_versions(f"name = '{mlflow.experiment}-{part}'")
    except Exception as error:  # a training does without
        log.warning("MLflow does not say which version the %s %s is: %s", part, digest, error)
        return None
    same = (str(each.version) for each in found if each.tags.get(DIGEST_TAG) == digest)
    return next(same, None)
