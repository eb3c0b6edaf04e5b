"""Evaluation on another dataset, from which nothing is learned, without the training images in it.

These assets are there where the preset has a section `zero_shot`.
"""

import dagster as dg

from assets.data import squares
from assets.embeddings import CLIP, embedded_captions, embedded_images
from assets.evaluation import DECODING, PRIORS_THERE, ZERO_SHOT, evaluated, material_of
from assets.metadata import OWNERS, gated_metadata, materialized, overlap_metadata
from assets.versions import decided_by
from corgi_core.data.revisions import (
    EVALUATION_JOBS,
    GATE_REVISION,
    IMAGE_EMBEDDING_REVISION,
    LINEAR_PRIORS_REVISION,
    PERCEPTUAL_HASHES_REVISION,
    PIXELS_REVISION,
    TEXT_EMBEDDING_REVISION,
    TRAINING_NEIGHBOURS_REVISION,
)
from orchestration.resources.artifacts import (
    ArrayStore,
    Dataset,
    Evaluation,
    FolderBacked,
    Overlap,
    SplitOverlap,
    StoredDecoder,
    StoredPrior,
)
from orchestration.resources.compute import Compute
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import DEVICE
from orchestration.resources.workspace import RAW_VERSION, Workspace


@dg.asset(
    group_name=ZERO_SHOT,
    owners=OWNERS,
    kinds={"webdataset", "pillow", "ray"},
    metadata=decided_by("zero_shot", "data", revision=GATE_REVISION),
)
def zero_shot_images(
    context: dg.AssetExecutionContext, workspace: Workspace, compute: Compute
) -> dg.MaterializeResult[Dataset]:
    """The images and captions that are evaluated, after the same quality gate as the training's."""
    from corgi_core.data import quality

    raw, path = workspace.zero_shot_raw, workspace.path(context)
    gated = quality.gate(raw, path, workspace.preset.data, compute.map_images)
    about = {"dataset": workspace.zero_shot.dataset, RAW_VERSION: raw.digest}
    return materialized(gated, **about, **gated_metadata(gated))


@dg.asset(
    group_name=ZERO_SHOT,
    owners=OWNERS,
    kinds={"safetensors", "ray"},
    metadata=decided_by("image_size", "framing", "pixels", revision=PIXELS_REVISION),
)
def zero_shot_pixels(
    context: dg.AssetExecutionContext,
    zero_shot_images: Dataset,
    workspace: Workspace,
    compute: Compute,
) -> dg.MaterializeResult[ArrayStore]:
    """The evaluated images as squares, of the size and framing that the training images have."""
    return squares(context, zero_shot_images, workspace, compute)


@dg.asset(
    group_name=ZERO_SHOT,
    owners=OWNERS,
    kinds={"openclip", "safetensors", "ray"},
    deps=[CLIP],
    pool=DEVICE,
    metadata=decided_by("encoders", revision=IMAGE_EMBEDDING_REVISION),
)
def zero_shot_image_embeddings(
    context: dg.AssetExecutionContext,
    zero_shot_images: Dataset,
    zero_shot_pixels: ArrayStore,
    workspace: Workspace,
    compute: Compute,
) -> dg.MaterializeResult[ArrayStore]:
    """The evaluated images, embedded by the encoders of the training images."""
    return embedded_images(context, zero_shot_images, zero_shot_pixels, workspace, compute)


@dg.asset(
    group_name=ZERO_SHOT,
    owners=OWNERS,
    kinds={"openclip", "transformers", "safetensors", "ray"},
    deps=[CLIP],
    pool=DEVICE,
    metadata=decided_by("encoders", "text_features", revision=TEXT_EMBEDDING_REVISION),
)
def zero_shot_text_embeddings(
    context: dg.AssetExecutionContext,
    zero_shot_images: Dataset,
    workspace: Workspace,
    compute: Compute,
) -> dg.MaterializeResult[ArrayStore]:
    """The evaluated captions, encoded as the training captions are."""
    return embedded_captions(context, zero_shot_images, workspace, compute)


@dg.asset(
    group_name=ZERO_SHOT,
    owners=OWNERS,
    kinds={"faiss"},
    metadata=decided_by("zero_shot", revision=(2, PERCEPTUAL_HASHES_REVISION)),
)
def zero_shot_overlap(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    image_embeddings: ArrayStore,
    zero_shot_images: Dataset,
    zero_shot_pixels: ArrayStore,
    zero_shot_image_embeddings: ArrayStore,
    workspace: Workspace,
    compute: Compute,
) -> dg.MaterializeResult[Overlap]:
    """The evaluated images that are in the training data, by perceptual hash and by embedding."""
    from corgi_core.evaluation.nearest import TrainingImages
    from corgi_core.evaluation.overlap import overlap_of
    from corgi_core.evaluation.perceptual import PerceptualHashes

    folder, training = workspace.chunks_folder(context), TrainingImages(images, image_embeddings)
    own = PerceptualHashes(zero_shot_images, zero_shot_pixels)
    hashes = compute.arrays(own, folder / "evaluated")
    theirs = compute.arrays(PerceptualHashes(images, pixels), folder / "training")
    overlap = overlap_of(
        zero_shot_images, zero_shot_image_embeddings, hashes, training, theirs,
        workspace.zero_shot,
    )  # fmt: skip
    return materialized(overlap, **overlap_metadata(overlap))


@dg.asset_check(asset="zero_shot_overlap")
def no_training_image_is_evaluated(zero_shot_overlap: Overlap) -> dg.AssetCheckResult:
    """No evaluated image is in the training data; those that are do not count in the scores."""
    counts = zero_shot_overlap.counts
    return dg.AssetCheckResult(
        passed=not counts["overlapping"],
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{counts['overlapping']} of {counts['images']} evaluated images are in the training "
            f"data ({counts['by_hash']} by perceptual hash, {counts['by_embedding']} by embedding) "
            "and are left out of the scores"
        ),
        metadata=overlap_metadata(zero_shot_overlap),
    )


@dg.asset(
    group_name=ZERO_SHOT,
    owners=OWNERS,
    kinds={"pytorch", "mlflow"},
    pool=DEVICE,
    ins=PRIORS_THERE | DECODING,
    deps=[CLIP],
    metadata=decided_by(
        "evaluation",
        "zero_shot",
        revision=(4, LINEAR_PRIORS_REVISION, *EVALUATION_JOBS, TRAINING_NEIGHBOURS_REVISION),
    ),
)
def zero_shot_evaluation(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    split_overlap: SplitOverlap,
    zero_shot_images: Dataset,
    zero_shot_pixels: ArrayStore,
    zero_shot_image_embeddings: ArrayStore,
    zero_shot_text_embeddings: ArrayStore,
    zero_shot_overlap: Overlap,
    prior: dict[str, StoredPrior],
    decoder: StoredDecoder,
    workspace: Workspace,
    compute: Compute,
    mlflow: MLflow,
) -> dg.MaterializeResult[Evaluation]:
    """The evaluation's scores on the other dataset, whose overlapping images are left out."""
    from corgi_core.evaluation.material import TrainingData

    data = TrainingData(images, image_embeddings, text_embeddings, pixels, split_overlap.left_out)
    material = material_of(
        context, workspace, compute, zero_shot_images, zero_shot_image_embeddings,
        zero_shot_text_embeddings, zero_shot_pixels, zero_shot_overlap.keys, data,
    )  # fmt: skip
    inputs: dict[str, FolderBacked] = {
        "decoder": decoder, "images": images, "zero_shot_images": zero_shot_images,
        "zero_shot_overlap": zero_shot_overlap, "split_overlap": split_overlap,
    }  # fmt: skip
    about = zero_shot_overlap.described(workspace.zero_shot.dataset, zero_shot_images, images)
    return evaluated(context, prior, decoder, material, inputs, workspace, mlflow, about)
