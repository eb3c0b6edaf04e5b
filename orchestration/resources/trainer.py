"""Training inside an asset: on Ray workers, resumable, tracked in MLflow while it runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import dagster as dg

from corgi_core.config import TrainingSettings
from corgi_core.io.files import digest_of
from orchestration.resources.artifacts import FolderBacked
from orchestration.resources.compute import Compute
from orchestration.resources.model_registry import version_of
from orchestration.resources.progress_log import ProgressLog
from orchestration.resources.traces import note, span
from orchestration.resources.tracking import MLflow, Parent
from orchestration.resources.warm_start import ParentModel
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.training.run_folder import TrainingResult
    from corgi_core.training.task import Task

M = TypeVar("M")  # the class of the model
DEVICE = "device"  # the pool of ray.device_jobs slots, one where assets would fight over a device


@dataclass(frozen=True)
class Trained(Generic[M]):
    """A finished training.

    Attributes:
        result: the averaged model, the last metrics, steps and seconds.
        card: entries of the model card: the training's identity, labels, data versions, metrics.
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


@dataclass(frozen=True)
class Plan:
    """A training that is to be done: what is trained on what, and how."""

    task: "Task[Any]"
    settings: TrainingSettings


def joint_card(trained: Mapping[str, Trained[Any]]) -> dict[str, Any]:
    """The model card's entries of a model's parts by name: each part's metrics under its name."""
    cards = {part: each.card for part, each in trained.items()}
    if len(cards) == 1:
        return next(iter(cards.values()))
    return {
        "training": _joint_identity(card["training"] for card in cards.values()),
        "labels": next(iter(cards.values()))["labels"],
        "data_versions": next(iter(cards.values()))["data_versions"],
        "metrics": {
            f"{part}/{name}": value
            for part, card in cards.items()
            for name, value in card["metrics"].items()
        },
    }


class Trainer(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Trains the models of one workspace.

    Examples:
        ```python
        trained = trainer.train(
            context, task, settings, "prior", {"gaussian_bank": bank}, {"variant": "shifted-k1"}
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
        labels: Mapping[str, Any],
        parent: Parent | None = None,
        continued: ParentModel | None = None,
    ) -> Trained[Any]:
        """Train `task`, or resume a killed run of the same task, data and settings.

        Args:
            context: of the asset that is materialised; its code version is part of the identity.
            task: what is trained, on what.
            settings: of the optimiser run.
            name: of the MLflow run and of the progress report.
            inputs: the artefacts that the model is trained on, by asset; their digests are
                recorded as data versions.
            labels: what people tell the model from others by, such as its variant; the preset, the
                dataset and the seed are added.
            parent: the MLflow run that it is below; by default the one of its refresh.
            continued: the model that the task continues from, for the card and the run's tags.

        Returns:
            The training's result, with the model card's entries and the MLflow run's page.

        Raises:
            CorgiError: as `Compute.train`.
        """
        versions = {asset: artifact.digest for asset, artifact in inputs.items()}
        described = _described(context, task, settings)
        identity = digest_of(described)
        folder = self.workspace.work_folder(context, identity)
        storage = self.workspace.stored_work(context, identity)
        about = f"The training of {name} on {self.workspace.dataset}."
        labels = self.workspace.labels(settings.seed) | dict(labels)
        with self.mlflow.run(context, name, identity, versions, labels, parent, about) as run:
            run.log_parameters(_parameters(described))
            run.log_tags({"code_version": described["code_version"]})
            if continued is not None:
                run.log_tags(parent_tags(continued, self.mlflow))
            run.log_datasets("train", self.workspace.datasets(inputs))
            progress = ProgressLog(context.log.info)

            def hear(entry: Mapping[str, Any]) -> None:
                run.log_metrics(entry)
                progress.training(name, entry, settings.steps, lambda: run.url)

            with span(f"train {name}", **{"training.steps": settings.steps}):
                result = self.compute.train(task, settings, folder, name, hear, storage)
                note(**{f"training.{metric}": value for metric, value in result.metrics.items()})
            url = run.url
        card = {
            "training": identity, "labels": labels, "data_versions": versions,
            "metrics": result.metrics,
        }  # fmt: skip
        return Trained(result, card | (continued.card if continued else {}), url)

    def train_in_turn(
        self,
        context: dg.AssetExecutionContext,
        plans: Mapping[str, Plan],
        name: str,
        inputs: Mapping[str, FolderBacked],
        labels: Mapping[str, Any],
    ) -> dict[str, Trained[Any]]:
        """Train the parts of one model, one after the other, in one MLflow run a model.

        Of several parts each has a run of its own below the model's, with its training curve. The
        model's run has the last metrics of all parts under the parts' names, and is the one that
        an evaluation adds its scores to.

        Args:
            context: as `train`.
            plans: the trainings by the parts' names, "" for a model of one part.
            name: of the model and its run; a part's run has "NAME-PART".
            inputs: as `train`.
            labels: as `train`.

        Returns:
            The trainings by the same names. What is finished already is not trained again.

        Raises:
            CorgiError: as `train`; a batch that cannot be divided, before the first training.
        """
        from corgi_core.training.run_folder import check_division

        for plan in plans.values():
            check_division(plan.task, plan.settings, max(1, self.compute.num_workers))
        if len(plans) == 1:
            ((part, plan),) = plans.items()
            return {part: self.train(context, plan.task, plan.settings, name, inputs, labels)}
        identity = _joint_identity(
            digest_of(_described(context, plan.task, plan.settings)) for plan in plans.values()
        )
        versions = {asset: artifact.digest for asset, artifact in inputs.items()}
        shared = self.workspace.labels(next(iter(plans.values())).settings.seed) | dict(labels)
        about = f"The training of {name}, whose parts' trainings are below this run."
        parent = Parent(name, identity)
        with self.mlflow.run(context, name, identity, versions, shared, None, about) as run:
            run.log_datasets("train", self.workspace.datasets(inputs))
            trained = {
                part: self.train(
                    context, plan.task, plan.settings, f"{name}-{part}", inputs, labels, parent
                )
                for part, plan in plans.items()
            }
            run.log_metrics({"step": 0, **joint_card(trained)["metrics"]})
        return trained


def _joint_identity(identities: Iterable[str]) -> str:
    """The identity of a model whose parts' trainings have the given ones."""
    return digest_of(list(identities))


def _described(
    context: dg.AssetExecutionContext, task: "Task[Any]", settings: TrainingSettings
) -> dict[str, str]:
    """All that a training's identity is the digest of."""
    from corgi_core.training.identity import identity_of

    return identity_of(task, settings) | {"code_version": code_version(context)}


def parent_tags(parent: ParentModel, mlflow: MLflow) -> dict[str, str]:
    """What a training's run says of its parent; no version where MLflow does not answer."""
    tags = {"parent.alias": parent.alias, "parent.digest": parent.digest}
    version = version_of(mlflow, "prior", parent.digest)
    return tags if version is None else tags | {"parent.version": version}


def code_version(context: dg.AssetExecutionContext) -> str:
    """The code version of the asset that is materialised."""
    return context.assets_def.specs_by_key[context.asset_key].code_version or ""


def _parameters(described: Mapping[str, str]) -> dict[str, str]:
    """Of an identity's description: the settings, as "training.…" and "model.…".

    The data and the labels are left out, which a run has by other names.
    """
    found = {
        name.replace("task.settings.", "model.").replace("settings.", "training.", 1): value
        for name, value in described.items()
        if not name.startswith("task.settings.training.")
        and name.startswith(("task.settings.", "settings."))
    }
    del found["training.seed"]
    return found
