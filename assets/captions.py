"""Which captions a semi-supervised prior may see."""

import dagster as dg

from assets.metadata import OWNERS, materialized
from assets.versions import decided_by
from corgi_core.config import LANGUAGE_FREE, fraction_of
from orchestration.resources.artifacts import CaptionSubset, Dataset
from orchestration.resources.workspace import Workspace


@dg.asset(
    group_name="captions",
    owners=OWNERS,
    kinds={"json"},
    metadata=decided_by("seed", "language_free", revision=2, partitions="caption_subsets"),
)
def caption_subset(
    context: dg.AssetExecutionContext, images: Dataset, workspace: Workspace
) -> dg.MaterializeResult[CaptionSubset]:
    """Which training images keep their captions: nested, the same on any shard layout.

    Images outside the subset stay as image-only data. "0%" are the captions of other sources.
    """
    from corgi_core.data import subsets

    seed = workspace.preset.seed
    if context.partition_key == LANGUAGE_FREE:
        source = workspace.language_free.source
        subset = subsets.captions_of_other_sources(images, source, seed)
    else:
        fraction = fraction_of(context.partition_key)
        subset = subsets.caption_subset(images, fraction, seed)
    return materialized(subset, images_with_captions=len(subset), highest_rank=subset.threshold)
