"""CLIP embeddings of all images and captions, float16, sharded as the images are."""

import dagster as dg

from assets.metadata import OWNERS, materialized
from assets.versions import decided_by
from orchestration.resources.artifacts import ArrayStore, ClipEnsemble, Dataset
from orchestration.resources.workspace import Workspace

GROUP = "embeddings"
KINDS = {"openclip", "safetensors"}


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds=KINDS,
    metadata=decided_by("encoders", revision=2),
)
def image_embeddings(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    clip_encoder: ClipEnsemble,
    workspace: Workspace,
) -> dg.MaterializeResult[ArrayStore]:
    """One row an image, each encoder's output scaled to norm √d_b; only missing shards computed."""
    from corgi_core.encoders import embed

    store = embed.embed_images(clip_encoder, images, pixels, workspace.path(context))
    return materialized(store, rows=len(store), shards_computed=store.recomputed, **store.spec)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={*KINDS, "transformers"},
    metadata=decided_by("encoders", revision=2),
)
def text_embeddings(
    context: dg.AssetExecutionContext,
    images: Dataset,
    clip_encoder: ClipEnsemble,
    workspace: Workspace,
) -> dg.MaterializeResult[ArrayStore]:
    """One row a caption: the CLIP text embedding, and the text encoder's tokens with their mask."""
    from corgi_core.encoders import embed
    from corgi_core.encoders.tokens import TokenEncoder

    encoders = workspace.preset.encoders
    tokens = TokenEncoder.load(encoders.text, encoders.text_tokens)
    store = embed.embed_texts(clip_encoder, tokens, images, workspace.path(context))
    return materialized(store, rows=len(store), shards_computed=store.recomputed, **store.spec)
