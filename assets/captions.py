"""Which captions a semi-supervised prior may see."""

import dagster as dg

from assets.metadata import OWNERS, materialized
from assets.versions import version
from corgi_core.presets import fraction_of
from orchestration.artifacts import CaptionSubset, Dataset
from orchestration.partitions import caption_subsets
from orchestration.resources.workspace import Workspace
from orchestration.settings import settings


@dg.asset(
    group_name="captions",
    owners=OWNERS,
    kinds={"parquet"},
    partitions_def=caption_subsets,
    code_version=version(settings().preset.digest("seed"), revision=1),
)
def caption_subset(
    context: dg.AssetExecutionContext, images: Dataset, workspace: Workspace
) -> dg.MaterializeResult[CaptionSubset]:
    """Keys of the training images that keep their captions: nested, the same on any shard layout.

    Images outside the subset stay as image-only data.
    """
    from corgi_core.data import subsets

    fraction = fraction_of(context.partition_key)
    subset = subsets.caption_subset(images.manifest, fraction, workspace.preset.seed)
    return materialized(subset, images_with_captions=len(subset), examples=subset.keys[:5].tolist())
