"""MLflow's model registry, as Corgi uses it: model folders, one version a digest, aliases.

A version's files are artifacts of the run that trained it, so run and model lead to each other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of
from orchestration.resources.artifacts import FolderBacked
from orchestration.resources.champions import CHAMPION, model_name
from orchestration.resources.tracking import IDENTITY_TAG, MLflow

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

DIGEST_TAG = "digest"


class Registry:
    """The registered models of one workspace. Unlike tracking, registering needs the store."""

    def __init__(self, mlflow: MLflow) -> None:
        self._mlflow = mlflow
        self._client = mlflow.client()
        self._named: dict[str, str] = {}
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
        """Names the present champions and what else has an alias."""
        return digest_of(self._named)

    def name(self, part: str) -> str:
        return model_name(self._mlflow.experiment, part)

    def register(
        self, part: str, artifact: FolderBacked, tags: Mapping[str, str], description: str
    ) -> str:
        """The version that holds this very artifact; made if the registry does not have it yet."""
        known = self._versions(part)
        wanted = {**tags, DIGEST_TAG: artifact.digest}
        for version in known:
            if wanted.items() <= version.tags.items():
                self._client.update_model_version(version.name, version.version, description)
                return str(version.version)
        if not known:
            self._make(self.name(part))
        run_id, source = self._keep(part, artifact)
        version = self._client.create_model_version(
            self.name(part),
            source,
            run_id,
            tags=wanted,
            description=description,
        )
        self.added += 1
        return str(version.version)

    def promote(self, part: str, version: str, why: str) -> None:
        """Let the alias `champion` point at this version, and write down why."""
        self.alias(part, CHAMPION, version)
        description = f"Champion: version {version}, {why}."
        self._client.update_registered_model(self.name(part), description)

    def alias(self, part: str, alias: str, version: str) -> None:
        """Let an alias point at this version."""
        self._client.set_registered_model_alias(self.name(part), alias, version)
        self._named[f"{part}@{alias}"] = version

    def _versions(self, part: str) -> list[ModelVersion]:
        return list(self._client.search_model_versions(f"name = '{self.name(part)}'"))

    def _make(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _keep(self, part: str, artifact: FolderBacked) -> tuple[str, str]:
        """Copy the model folder to its training's run; (run id, where the folder lies)."""
        card = getattr(artifact, "card", {})
        run_id = self._run_of(str(card.get("training") or artifact.digest), part)
        place = f"model/{artifact.digest}"
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / part
            artifact.save(folder)
            self._client.log_artifacts(run_id, str(folder), artifact_path=place)
        return run_id, f"{self._client.get_run(run_id).info.artifact_uri}/{place}"

    def _run_of(self, identity: str, part: str) -> str:
        """The run with this identity: the training's, or a new one where nothing was trained."""
        same = f"tags.`{IDENTITY_TAG}` = '{identity}'"
        for run in self._client.search_runs([self._experiment], same, max_results=1):
            return str(run.info.run_id)
        run = self._client.create_run(
            self._experiment, tags={IDENTITY_TAG: identity}, run_name=part
        )
        self._client.set_terminated(run.info.run_id)
        return str(run.info.run_id)
