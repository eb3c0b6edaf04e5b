"""The assets that differ for precomputed embeddings: no pixels, no image tower, no decoder."""

import dagster as dg

from assets.clip import trained_ensemble
from assets.evaluation import PRIORS_THERE, evaluated, material_of
from assets.metadata import OWNERS, array_metadata, materialized
from assets.promotion import PROMOTION_CHECK
from assets.registry import registered
from assets.versions import decided_by
from corgi_core.data.revisions import (
    LINEAR_PRIORS_REVISION,
    PRECOMPUTED_EMBEDDING_REVISION,
    PREDICTION_SCORES_REVISION,
    TRAINING_NEIGHBOURS_REVISION,
)
from orchestration.resources.artifacts import (
    ArrayStore,
    ClipEnsemble,
    Dataset,
    Evaluation,
    FolderBacked,
    PriorModel,
    SplitOverlap,
    StoredPrior,
)
from orchestration.resources.compute import Compute
from orchestration.resources.instance import PROMOTION
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import DEVICE, Trainer
from orchestration.resources.workspace import Workspace

GROUP = "embeddings"


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"safetensors", "ray"},
    metadata=decided_by(revision=PRECOMPUTED_EMBEDDING_REVISION),
)
def image_embeddings(
    context: dg.AssetExecutionContext, images: Dataset, workspace: Workspace, compute: Compute
) -> dg.MaterializeResult[ArrayStore]:
    """The dataset's own embeddings, each encoder's output scaled to norm √d_b."""
    from corgi_core.encoders.embed import PrecomputedEmbedding

    store = compute.arrays(PrecomputedEmbedding(images), workspace.path(context))
    return materialized(store, **array_metadata(store))


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"pytorch", "transformers", "ray"},
    pool=DEVICE,
    metadata=decided_by("encoders", revision=4),
)
def clip_encoder(
    context: dg.AssetExecutionContext,
    images: Dataset,
    image_embeddings: ArrayStore,
    workspace: Workspace,
    trainer: Trainer,
) -> dg.MaterializeResult[ClipEnsemble]:
    """The text towers of the encoders that the embeddings name, or else ones that are fitted.

    They are fitted to the image embeddings on the training captions, without image towers; the
    recalls are text → image over the validation images.
    """
    from corgi_core.encoders import own_text_towers, train_text_tower

    encoders, embedded = workspace.preset.encoders, image_embeddings.spec
    own = own_text_towers.own_names(encoders.clip, embedded["names"])
    if own is not None:
        clip = own_text_towers.own_text_towers(own, image_embeddings, images)
        return materialized(clip, encoders=list(own), width=clip.width, **clip.card)
    assert encoders.training is not None
    task = train_text_tower.TextTowerTask(encoders, images, image_embeddings)
    inputs: dict[str, FolderBacked] = {"images": images, "image_embeddings": image_embeddings}
    return trained_ensemble(context, task, encoders.training, "text-towers", inputs, trainer)


@dg.asset(
    group_name="evaluation",
    owners=OWNERS,
    kinds={"pytorch", "mlflow"},
    pool=DEVICE,
    ins=PRIORS_THERE,
    metadata=decided_by(
        "evaluation",
        revision=(
            7,
            LINEAR_PRIORS_REVISION,
            PREDICTION_SCORES_REVISION,
            TRAINING_NEIGHBOURS_REVISION,
        ),
    ),
)
def evaluation(
    context: dg.AssetExecutionContext,
    images: Dataset,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    split_overlap: SplitOverlap,
    prior: dict[str, StoredPrior],
    workspace: Workspace,
    compute: Compute,
    mlflow: MLflow,
) -> dg.MaterializeResult[Evaluation]:
    """Test and validation cosine and recall of every prior there is; there are no pictures."""
    material = material_of(
        context, workspace, compute, images, image_embeddings, text_embeddings,
        left_out=split_overlap.left_out,
    )  # fmt: skip
    inputs: dict[str, FolderBacked] = {
        "images": images, "image_embeddings": image_embeddings, "split_overlap": split_overlap
    }  # fmt: skip
    return evaluated(context, prior, None, material, inputs, workspace, mlflow)


@dg.asset(
    group_name="registry",
    owners=OWNERS,
    kinds={"mlflow"},
    ins=PRIORS_THERE,
    metadata=decided_by(revision=5),
    pool=PROMOTION,
    check_specs=[PROMOTION_CHECK],
)
def registered_models(
    context: dg.AssetExecutionContext,
    evaluation: Evaluation,
    prior: dict[str, PriorModel],
    clip_encoder: ClipEnsemble,
    workspace: Workspace,
    mlflow: MLflow,
) -> dg.MaterializeResult:  # type: ignore[type-arg]  # so Dagster wants it, with a check
    """Every evaluated prior and the fitted text towers as model folders, each digest once.

    A prior becomes the champion of its caption fraction at the gate, as with pictures.
    """
    return registered(context, evaluation, prior, {}, clip_encoder, workspace, mlflow)
