"""Partitions of the assets.

Priors have a variant and a caption subset, decoders a kind, the study a seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import dagster as dg

from corgi_core.config import (
    ALL_CAPTIONS,
    DECODER_SETTINGS,
    LANGUAGE_FREE,
    VARIANTS,
    CascadeSettings,
    Preset,
)

VARIANT, CAPTION_SUBSET = "variant", "caption_subset"

STUDY = "study"  # the group of the study's assets
COMPARISON = "comparison"  # … and of those of the decoders' comparison
RATINGS = "ratings"  # … and of that of people's votes
PROPOSALS = "proposals"  # … and of that of images to caption
CAPTIONED = "captioned"  # … and of what is made by name only: decoders that read captions
ASKED_FOR = (STUDY, COMPARISON, CAPTIONED, RATINGS, PROPOSALS)
"""Groups that neither `corgi run` nor an automation makes."""


@dataclass(frozen=True)
class Partitions:
    """The partitions of a preset's assets; what the preset does not configure has none."""

    variants: dg.StaticPartitionsDefinition
    caption_subsets: dg.StaticPartitionsDefinition
    priors: dg.MultiPartitionsDefinition
    decoders: dg.StaticPartitionsDefinition
    captioned_decoders: dg.StaticPartitionsDefinition
    language_free_decoders: dg.StaticPartitionsDefinition
    study_seeds: dg.StaticPartitionsDefinition

    @classmethod
    def of(cls, preset: Preset) -> Partitions:
        """The preset's own variants, and those that can be made by name; its subsets, its decoders.

        Language-free are those that learn from a source without captions, which a preset names.
        """
        named = dict.fromkeys((*VARIANTS, *preset.variants, *preset.comparison.variants))
        variants = dg.StaticPartitionsDefinition(list(named))
        free = preset.language_free is not None
        subsets = [name for name in preset.caption_subsets if free or name != LANGUAGE_FREE]
        caption_subsets = dg.StaticPartitionsDefinition(subsets)
        kinds = [settings.kind for settings in preset.decoders]
        return cls(
            variants=variants,
            caption_subsets=caption_subsets,
            priors=dg.MultiPartitionsDefinition(
                {VARIANT: variants, CAPTION_SUBSET: caption_subsets}
            ),
            decoders=dg.StaticPartitionsDefinition(kinds),
            captioned_decoders=dg.StaticPartitionsDefinition(
                subsets if CascadeSettings.kind in kinds else []
            ),
            language_free_decoders=dg.StaticPartitionsDefinition(kinds if free else []),
            study_seeds=dg.StaticPartitionsDefinition([str(s) for s in preset.study.seeds]),
        )


def is_made_by_default(partition_key: str, preset: Preset) -> bool:
    """Whether `corgi run` makes this partition of an asset.

    Every variant and decoder can be made by name; those of `preset.variants`, and the preset's
    decoder, are made without being named. What is language-free is made by name.
    """
    kinds = {preset.decoder.kind} if preset.decoder else set()
    return _among(partition_key, preset, preset.variants, kinds, {LANGUAGE_FREE})


def is_compared(partition_key: str, preset: Preset) -> bool:
    """Whether `corgi compare` makes this partition: all of the preset's decoders, all captions."""
    left_out = set() if preset.language_free else {LANGUAGE_FREE}
    kinds = {settings.kind for settings in preset.decoders}
    return _among(partition_key, preset, preset.comparison.variants, kinds, left_out)


def _among(
    partition_key: str,
    preset: Preset,
    variants: Sequence[str],
    kinds: Set[str],
    without_subsets: Set[str],
) -> bool:
    """Whether each dimension of the key, where it is of these, is one of those wanted."""
    all_variants: Iterable[str] = Partitions.of(preset).variants.get_partition_keys()
    left_out = (set(all_variants) - set(variants)) | (set(DECODER_SETTINGS) - kinds)
    return not (left_out | without_subsets) & set(partition_key.split("|"))


def semi_supervised(preset: Preset) -> list[str]:
    """The partitions of the preset's priors that learn from some of the captions only."""
    return [
        key for key in Partitions.of(preset).priors.get_partition_keys()
        if prior_of(key)[1] != ALL_CAPTIONS and is_made_by_default(key, preset)
    ]  # fmt: skip


def prior_of(partition_key: str) -> tuple[str, str]:
    """(variant, caption subset) of a prior's partition key, "<caption subset>|<variant>"."""
    subset, _, variant = partition_key.partition("|")
    return variant, subset
