"""Evaluation on another dataset, from which nothing is learned, without the training images in it.

These assets are there where the preset has a section `zero_shot`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.embeddings import CLIP
from assets.evaluation import DECODING, PRIORS_THERE, ZERO_SHOT, evaluated
from assets.metadata import OWNERS, materialized, table
from assets.versions import decided_by
from corgi_core.config import ZeroShotSettings
from corgi_core.data.revisions import (
    EVALUATION_JOBS,
    GATE_REVISION,
    IMAGE_EMBEDDING_REVISION,
    PERCEPTUAL_HASHES_REVISION,
    PIXELS_REVISION,
    TEXT_EMBEDDING_REVISION,
)
from orchestration.resources.artifacts import (
    ArrayStore,
    Dataset,
    Evaluation,
    Overlap,
    StoredDecoder,
    StoredPrior,
)
from orchestration.resources.compute import Compute
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import DEVICE
from orchestration.resources.workspace import RAW_VERSION, Workspace

if TYPE_CHECKING:
    from corgi_core.evaluation.prior_scores import Name
    from corgi_core.evaluation.report import Evaluation as Report


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
    return materialized(
        gated,
        dataset=_settings(workspace).dataset,
        images=len(gated),
        held_out=sum(gated.images_of("test").values()),
        shards_computed=gated.recomputed,
        **{RAW_VERSION: raw.digest},
    )


@dg.asset(
    group_name=ZERO_SHOT,
    owners=OWNERS,
    kinds={"safetensors", "ray"},
    metadata=decided_by("image_size", "framing", revision=PIXELS_REVISION),
)
def zero_shot_pixels(
    context: dg.AssetExecutionContext,
    zero_shot_images: Dataset,
    workspace: Workspace,
    compute: Compute,
) -> dg.MaterializeResult[ArrayStore]:
    """The evaluated images as squares, of the size and framing that the training images have."""
    from corgi_core.data.pixels import Pixels

    size, framing = workspace.preset.image_size, workspace.preset.framing
    assert size is not None
    store = compute.arrays(Pixels(zero_shot_images, size, framing), workspace.path(context))
    return materialized(store, images=len(store), **store.spec)


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
    from corgi_core.encoders.embed import ImageEmbedding

    job = ImageEmbedding(
        zero_shot_images, zero_shot_pixels, workspace.path_of(CLIP),
        precision=workspace.preset.inference_precision,
    )  # fmt: skip
    store = compute.arrays(job, workspace.path(context))
    return materialized(store, rows=len(store), **store.spec)


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
    from corgi_core.encoders.embed import TextEmbedding

    encoders, precision = workspace.preset.encoders, workspace.preset.inference_precision
    job = TextEmbedding(
        zero_shot_images, workspace.path_of(CLIP), encoders.text, encoders.text_tokens,
        workspace.preset.text_features, precision=precision,
    )  # fmt: skip
    store = compute.arrays(job, workspace.path(context))
    return materialized(store, rows=len(store), **store.spec)


@dg.asset(
    group_name=ZERO_SHOT,
    owners=OWNERS,
    kinds={"faiss"},
    metadata=decided_by("zero_shot", revision=(1, PERCEPTUAL_HASHES_REVISION)),
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

    folder = workspace.chunks_folder(context)
    overlap = overlap_of(
        zero_shot_images,
        zero_shot_image_embeddings,
        compute.arrays(PerceptualHashes(zero_shot_images, zero_shot_pixels), folder / "evaluated"),
        TrainingImages(images, image_embeddings),
        compute.arrays(PerceptualHashes(images, pixels), folder / "training"),
        _settings(workspace),
    )
    counts: dict[str, Any] = overlap.counts
    return materialized(overlap, pairs=table(overlap.pairs), **counts)


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
        metadata={**counts, "examples": table(zero_shot_overlap.pairs)},
    )


@dg.asset(
    group_name=ZERO_SHOT,
    owners=OWNERS,
    kinds={"pytorch", "mlflow"},
    pool=DEVICE,
    ins=PRIORS_THERE | DECODING,
    deps=[CLIP],
    metadata=decided_by("evaluation", "zero_shot", revision=(1, *EVALUATION_JOBS)),
)
def zero_shot_evaluation(
    context: dg.AssetExecutionContext,
    images: Dataset,
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
    from corgi_core.evaluation.evaluate import evaluate
    from corgi_core.evaluation.material import Material

    settings, dataset = workspace.preset.evaluation, _settings(workspace).dataset
    inputs = {
        "decoder": decoder.digest, "images": images.digest,
        "zero_shot_images": zero_shot_images.digest, "zero_shot_overlap": zero_shot_overlap.digest,
    }  # fmt: skip
    material = Material(
        zero_shot_images, zero_shot_image_embeddings, zero_shot_text_embeddings,
        workspace.chunks_folder(context), compute.arrays, zero_shot_pixels,
        workspace.path_of(CLIP), workspace.preset.inference_precision, zero_shot_overlap.keys,
    )  # fmt: skip

    def measure(priors: "Mapping[Name, StoredPrior]") -> "Report":
        report = evaluate(priors, decoder, material, settings)
        report.metrics["protocol"]["zero_shot"] = {
            "dataset": dataset,
            "data_version": zero_shot_images.digest,
            "training_data_version": images.digest,
            **zero_shot_overlap.counts,
        }
        return report

    spec = zero_shot_text_embeddings.spec
    return evaluated(context, measure, prior, spec, inputs, workspace, mlflow, dataset)


def _settings(workspace: Workspace) -> ZeroShotSettings:
    settings = workspace.preset.zero_shot
    assert settings is not None, "the assets are there only with these settings"
    return settings
