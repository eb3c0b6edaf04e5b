"""What assets are partitioned by: priors by variant and caption subset, the study by seed."""

from __future__ import annotations

import dagster as dg

from corgi_core.presets import CAPTION_SUBSETS, VARIANTS
from orchestration.settings import settings

VARIANT, CAPTION_SUBSET = "variant", "caption_subset"

variants = dg.StaticPartitionsDefinition(VARIANTS)
caption_subsets = dg.StaticPartitionsDefinition(CAPTION_SUBSETS)
priors = dg.MultiPartitionsDefinition({VARIANT: variants, CAPTION_SUBSET: caption_subsets})

STUDY = "study"  # the group of the study's assets
study_seeds = dg.StaticPartitionsDefinition([str(seed) for seed in settings().preset.study.seeds])

SEMI_SUPERVISED = [
    dg.MultiPartitionKey({VARIANT: variant, CAPTION_SUBSET: subset})
    for subset in CAPTION_SUBSETS
    if subset != "100%"
    for variant in VARIANTS
]


def prior_of(partition_key: str) -> tuple[str, str]:
    """(variant, caption subset) of a prior's partition key."""
    dimensions = priors.get_partition_key_from_str(partition_key).keys_by_dimension
    return dimensions[VARIANT], dimensions[CAPTION_SUBSET]
