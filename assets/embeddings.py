"""CLIP embeddings of all images and captions, float16, sharded as the images are."""

from typing import Any

import dagster as dg

from assets.metadata import OWNERS, array_metadata, materialized, table
from assets.pictures import near_twins
from assets.versions import decided_by
from corgi_core.data.revisions import (
    IMAGE_EMBEDDING_REVISION,
    SPLIT_NEIGHBOURS_REVISION,
    TEXT_EMBEDDING_REVISION,
)
from orchestration.resources.artifacts import ArrayStore, Dataset, SplitOverlap
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


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"pytorch", "ray"},
    metadata=decided_by("data", revision=(1, SPLIT_NEIGHBOURS_REVISION)),
)
def split_overlap(
    context: dg.AssetExecutionContext,
    images: Dataset,
    image_embeddings: ArrayStore,
    workspace: Workspace,
    compute: Compute,
) -> dg.MaterializeResult[SplitOverlap]:
    """Held-out images with a near twin in another split, which do not count.

    By perceptual hash and by embedding: test images near training images, and validation images
    near either.
    """
    from corgi_core.evaluation import split_neighbours
    from corgi_core.evaluation.split_overlap import split_overlap_of

    blocks = split_neighbours.HeldOutBlocks(images, image_embeddings)
    job = split_neighbours.SplitNeighbours(blocks, images, image_embeddings)
    data, folder = workspace.preset.data, workspace.chunks_folder(context)
    found = None if data.twin_cosine is None else compute.arrays(job, folder)
    overlap = split_overlap_of(images, image_embeddings, found, data.twin_bits, data.twin_cosine)
    details: dict[str, Any] = {
        **overlap.counts,
        "left_out": table(overlap.displayed), "pictures": near_twins(images, overlap),
    }  # fmt: skip
    return materialized(overlap, **details)


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
