"""Training inside an asset: on Ray workers, resumable, tracked in MLflow while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import dagster as dg

from corgi_core.config import TrainingSettings
from corgi_core.io.files import digest_of
from orchestration.resources.artifacts import FolderBacked
from orchestration.resources.compute import Compute
from orchestration.resources.tracking import MLflow
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.training.run_folder import TrainingResult
    from corgi_core.training.task import Task

M = TypeVar("M")  # the class of the model
DEVICE = "device"  # the pool of one slot that keeps two assets from fighting over one device


@dataclass(frozen=True)
class Trained(Generic[M]):
    """A finished training.

    Attributes:
        result: the averaged model, the last metrics, steps and seconds.
        card: entries of the model card: the training's identity, data versions and metrics.
        url: the page of the MLflow run; None where MLflow did not answer.
    """

    result: "TrainingResult[Any]"
    card: dict[str, Any]
    url: str | None

    @property
    def model(self) -> M:
        """The averaged model, in eval mode."""
        model: M = self.result.model
        return model


class Trainer(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Trains the models of one workspace.

    Examples:
        ```python
        trained = trainer.train(
            context, task, preset.prior.training, "prior", {"gaussian_bank": gaussian_bank}
        )
        ```
    """

    workspace: dg.ResourceDependency[Workspace]
    compute: dg.ResourceDependency[Compute]
    mlflow: dg.ResourceDependency[MLflow]

    def train(
        self,
        context: dg.AssetExecutionContext,
        task: "Task[Any]",
        settings: TrainingSettings,
        name: str,
        inputs: Mapping[str, FolderBacked],
    ) -> Trained[Any]:
        """Train `task`, or resume a killed run of the same task, data and settings.

        Args:
            context: of the asset that is materialised; its code version is part of the identity.
            task: what is trained, on what.
            settings: of the optimiser run.
            name: of the MLflow run and of the progress report.
            inputs: the artefacts that the model is trained on, by asset; their digests are
                recorded as data versions.

        Returns:
            The training's result, with the model card's entries and the MLflow run's page.

        Raises:
            CorgiError: as `Compute.train`.
        """
        from corgi_core.training.identity import identity_of

        versions = {asset: artifact.digest for asset, artifact in inputs.items()}
        described = identity_of(task, settings) | {"code_version": code_version(context)}
        identity = digest_of(described)
        folder = self.workspace.work_folder(context, identity)
        with self.mlflow.run(context, name, identity, versions, described) as run:
            result = self.compute.train(task, settings, folder, name, run.log_metrics)
            url = run.url
        card = {"training": identity, "data_versions": versions, "metrics": result.metrics}
        return Trained(result, card, url)


def code_version(context: dg.AssetExecutionContext) -> str:
    """The code version of the asset that is materialised."""
    return context.assets_def.specs_by_key[context.asset_key].code_version or ""
