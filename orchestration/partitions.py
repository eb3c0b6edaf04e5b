"""What assets are partitioned by: priors by variant and caption subset, decoders by kind, the study
by seed."""

from __future__ import annotations

from collections.abc import Sequence, Set

import dagster as dg

from corgi_core.config import CAPTION_SUBSETS, DECODER_SETTINGS, LANGUAGE_FREE, VARIANTS, Preset
from orchestration.settings import settings

VARIANT, CAPTION_SUBSET = "variant", "caption_subset"

variants = dg.StaticPartitionsDefinition(VARIANTS)
caption_subsets = dg.StaticPartitionsDefinition(CAPTION_SUBSETS)
priors = dg.MultiPartitionsDefinition({VARIANT: variants, CAPTION_SUBSET: caption_subsets})
decoders = dg.StaticPartitionsDefinition(list(DECODER_SETTINGS))

STUDY = "study"  # the group of the study's assets
COMPARISON = "comparison"  # … and of those of the decoders' comparison
CAPTIONED = "captioned"  # … and of what is made by name only: decoders that read captions
study_seeds = dg.StaticPartitionsDefinition([str(seed) for seed in settings().preset.study.seeds])


def is_kept_up_to_date(partition_key: str, preset: Preset) -> bool:
    """Whether the preset's own commands make this partition of an asset.

    Every variant and decoder can be made by name; those of `preset.variants`, and the decoder that
    draws, are made without being asked for. What is language-free is for those who ask.
    """
    drawing = {preset.decoder.kind} if preset.decoder else set()
    subsets = set(CAPTION_SUBSETS) - {LANGUAGE_FREE}
    return _among(partition_key, preset.variants, drawing, subsets)


def is_compared(partition_key: str, preset: Preset) -> bool:
    """Whether `corgi compare` makes this partition: all of the preset's decoders, all captions."""
    subsets = set(CAPTION_SUBSETS) - (set() if preset.language_free else {LANGUAGE_FREE})
    kinds = {settings.kind for settings in preset.decoders}
    return _among(partition_key, preset.comparison.variants, kinds, subsets)


def _among(
    partition_key: str, variants: Sequence[str], decoders: Set[str], caption_subsets: Set[str]
) -> bool:
    """Whether each of the key's dimensions, where it is of these kinds, is among those given."""
    left_out = (
        (set(VARIANTS) - set(variants))
        | (set(DECODER_SETTINGS) - decoders)
        | (set(CAPTION_SUBSETS) - caption_subsets)
    )
    return not left_out & set(partition_key.split("|"))


def semi_supervised(preset: Preset) -> list[str]:
    """The partitions of the preset's priors that see some of the captions only."""
    return [
        key for key in priors.get_partition_keys()
        if prior_of(key)[1] != "100%" and is_kept_up_to_date(key, preset)
    ]  # fmt: skip


def prior_of(partition_key: str) -> tuple[str, str]:
    """(variant, caption subset) of a prior's partition key."""
    dimensions = priors.get_partition_key_from_str(partition_key).keys_by_dimension
    return dimensions[VARIANT], dimensions[CAPTION_SUBSET]
