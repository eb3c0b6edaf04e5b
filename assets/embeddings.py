"""CLIP embeddings of all images and captions, float16, sharded as the images are."""

import dagster as dg

from assets.metadata import OWNERS, array_metadata, materialized
from assets.versions import decided_by
from corgi_core.data.revisions import IMAGE_EMBEDDING_REVISION, TEXT_EMBEDDING_REVISION
from orchestration.resources.artifacts import ArrayStore, Dataset
from orchestration.resources.compute import Compute
from orchestration.resources.trainer import DEVICE
from orchestration.resources.workspace import Workspace

GROUP = "embeddings"
KINDS = {"openclip", "safetensors", "ray"}
CLIP = "clip_encoder"  # read by the workers, from its folder


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds=KINDS,
    deps=[CLIP],
    pool=DEVICE,
    metadata=decided_by("encoders", revision=IMAGE_EMBEDDING_REVISION),
)
def image_embeddings(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    workspace: Workspace,
    compute: Compute,
) -> dg.MaterializeResult[ArrayStore]:
    """One row an image, each encoder's output scaled to norm √d_b; only missing shards computed."""
    return embedded_images(context, images, pixels, workspace, compute)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={*KINDS, "transformers"},
    deps=[CLIP],
    pool=DEVICE,
    metadata=decided_by("encoders", "text_features", revision=TEXT_EMBEDDING_REVISION),
)
def text_embeddings(
    context: dg.AssetExecutionContext,
    images: Dataset,
    workspace: Workspace,
    compute: Compute,
) -> dg.MaterializeResult[ArrayStore]:
    """One row a caption: the CLIP text embedding, and the text encoder's tokens, ragged.

    With `text_features: online` the captions themselves instead of their tokens.
    """
    return embedded_captions(context, images, workspace, compute)


def embedded_images(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    workspace: Workspace,
    compute: Compute,
) -> dg.MaterializeResult[ArrayStore]:
    """The images' CLIP embeddings, in the asset's own folder."""
    from corgi_core.encoders.embed import ImageEmbedding

    precision = workspace.preset.inference_precision
    job = ImageEmbedding(images, pixels, workspace.path_of(CLIP), precision=precision)
    store = compute.arrays(job, workspace.path(context))
    return materialized(store, **array_metadata(store))


def embedded_captions(
    context: dg.AssetExecutionContext, images: Dataset, workspace: Workspace, compute: Compute
) -> dg.MaterializeResult[ArrayStore]:
    """The captions' CLIP embeddings and tokens, in the asset's own folder."""
    from corgi_core.encoders.embed import TextEmbedding

    encoders, precision = workspace.preset.encoders, workspace.preset.inference_precision
    job = TextEmbedding(
        images, workspace.path_of(CLIP), encoders.text, encoders.text_tokens,
        workspace.preset.text_features, precision=precision,
    )  # fmt: skip
    store = compute.arrays(job, workspace.path(context))
    return materialized(store, **array_metadata(store))
