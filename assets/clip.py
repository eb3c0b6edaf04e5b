"""The CLIP encoders: pretrained ones by name, or a small one trained on the training images."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg

from assets.metadata import OWNERS, materialized, training_metadata
from assets.versions import decided_by
from orchestration.resources.artifacts import ArrayStore, ClipEnsemble, Dataset, FolderBacked
from orchestration.resources.trainer import DEVICE, Trainer
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.config import TrainingSettings
    from corgi_core.encoders.train_clip import ClipTask
    from corgi_core.encoders.train_text_tower import TextTowerTask


@dg.asset(
    group_name="embeddings",
    owners=OWNERS,
    kinds={"pytorch", "openclip", "ray"},
    pool=DEVICE,
    metadata=decided_by("encoders", revision=5),
)
def clip_encoder(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    workspace: Workspace,
    trainer: Trainer,
) -> dg.MaterializeResult[ClipEnsemble]:
    """An ensemble of open_clip encoders; with the preset's ("trained",), one trained here.

    The recalls are text → image over the validation images.
    """
    from corgi_core.encoders import clip, train_clip

    encoders = workspace.preset.encoders
    if encoders.training is None:
        ensemble = clip.ClipEnsemble.load(encoders.clip)
        return materialized(ensemble, encoders=list(ensemble.names), width=ensemble.width)
    task = train_clip.ClipTask(encoders, images, pixels)
    inputs: dict[str, FolderBacked] = {"images": images, "pixels": pixels}
    return trained_ensemble(context, task, encoders.training, "clip", inputs, trainer)


def trained_ensemble(
    context: dg.AssetExecutionContext,
    task: "ClipTask | TextTowerTask",
    training: "TrainingSettings",
    name: str,
    inputs: Mapping[str, FolderBacked],
    trainer: Trainer,
) -> dg.MaterializeResult[ClipEnsemble]:
    """Train `task`; its ensemble, with what Dagster displays of the training."""
    trained = trainer.train(context, task, training, name, inputs, {})
    ensemble = task.ensemble(trained.model, trained.card)
    metadata = training_metadata(trained)
    return materialized(ensemble, encoders=list(ensemble.names), width=ensemble.width, **metadata)
