"""What datasets of ready-made embeddings have in the place of pictures, pixels and a CLIP."""

import dagster as dg

from assets.metadata import OWNERS, materialized
from assets.trained import DEVICE, train
from assets.versions import version
from orchestration.artifacts import ArrayStore, ClipEnsemble, Dataset
from orchestration.resources.mlflow import MLflow
from orchestration.resources.ray import RayTraining
from orchestration.resources.workspace import Workspace
from orchestration.settings import settings

GROUP = "embeddings"


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"safetensors"},
    code_version=version("", revision=1),
)
def image_embeddings(
    context: dg.AssetExecutionContext, images: Dataset, workspace: Workspace
) -> dg.MaterializeResult[ArrayStore]:
    """The embeddings as they came, every encoder's block scaled to norm √d."""
    from corgi_core.encoders import embed

    store = embed.ready_made(images, workspace.place(context))
    return materialized(store, rows=len(store), shards_computed=store.recomputed, **store.spec)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"pytorch", "transformers", "ray"},
    pool=DEVICE,
    code_version=version(settings().preset.digest("encoders"), revision=1),
)
def clip_encoder(
    context: dg.AssetExecutionContext,
    images: Dataset,
    image_embeddings: ArrayStore,
    workspace: Workspace,
    ray_training: RayTraining,
    mlflow: MLflow,
) -> dg.MaterializeResult[ClipEnsemble]:
    """Text towers fitted to the image embeddings on the training captions; no image towers.

    The recalls are text → image over the held-out images.
    """
    from corgi_core.encoders import onto_embeddings

    encoders = workspace.preset.encoders
    assert encoders.training is not None
    task = onto_embeddings.TextTowerTask(encoders, images, image_embeddings)
    inputs = {"images": images.digest, "image_embeddings": image_embeddings.digest}
    trained = train(
        context, task, encoders.training, "text-towers", inputs, workspace, ray_training, mlflow
    )
    ensemble = task.ensemble(trained.result.model, trained.card)
    return materialized(
        ensemble, encoders=list(ensemble.names), width=ensemble.width, **trained.metadata
    )
