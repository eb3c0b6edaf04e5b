"""The CLIP encoders: pretrained ones by name, or a small one trained on the training images."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg

from assets.metadata import OWNERS, materialized
from assets.trained import DEVICE, train
from assets.versions import version
from orchestration.artifacts import ArrayStore, ClipEnsemble, Dataset
from orchestration.resources.mlflow import MLflow
from orchestration.resources.ray import RayTraining
from orchestration.resources.workspace import Workspace
from orchestration.settings import settings

if TYPE_CHECKING:
    from corgi_core.encoders.contrastive import ClipTask
    from corgi_core.encoders.onto_embeddings import TextTowerTask
    from corgi_core.presets import TrainingSettings


@dg.asset(
    group_name="embeddings",
    owners=OWNERS,
    kinds={"pytorch", "openclip", "ray"},
    pool=DEVICE,
    code_version=version(settings().preset.digest("encoders"), revision=2),
)
def clip_encoder(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    workspace: Workspace,
    ray_training: RayTraining,
    mlflow: MLflow,
) -> dg.MaterializeResult[ClipEnsemble]:
    """An ensemble of open_clip encoders; with the preset's ("trained",), one trained here.

    The recalls are text → image over the held-out images.
    """
    from corgi_core.encoders import clip, contrastive

    encoders = workspace.preset.encoders
    if encoders.training is None:
        ensemble = clip.ClipEnsemble.load(encoders.clip)
        return materialized(ensemble, encoders=list(ensemble.names), width=ensemble.width)
    task = contrastive.ClipTask(encoders, images, pixels)
    inputs = {"images": images.digest, "pixels": pixels.digest}
    return trained_ensemble(
        context, task, encoders.training, "clip", inputs, workspace, ray_training, mlflow
    )


def trained_ensemble(
    context: dg.AssetExecutionContext,
    task: "ClipTask | TextTowerTask",
    training: "TrainingSettings",
    name: str,
    inputs: Mapping[str, str],
    workspace: Workspace,
    ray_training: RayTraining,
    mlflow: MLflow,
) -> dg.MaterializeResult[ClipEnsemble]:
    """Train `task`; its ensemble, with what Dagster shows of the training."""
    trained = train(context, task, training, name, inputs, workspace, ray_training, mlflow)
    ensemble = task.ensemble(trained.result.model, trained.card)
    return materialized(
        ensemble, encoders=list(ensemble.names), width=ensemble.width, **trained.metadata
    )
