"""Which settings no cascade can be built from, and what to do about it."""

from __future__ import annotations

from itertools import pairwise

from corgi_core.config import CascadeSettings, StageSettings
from corgi_core.errors import CorgiError


def check_cascade(settings: CascadeSettings) -> None:
    """CorgiError for impossible settings."""
    stages = settings.stages
    if not stages or stages[-1].size != settings.image_size:
        raise CorgiError(
            f"the last stage of a cascade must sample the image_size, {settings.image_size}",
            "add a stage of that size at the end",
        )
    for before, after in pairwise(stages):
        if after.size <= before.size or after.size % before.size:
            raise CorgiError(
                f"a stage of {after.size} pixels cannot follow one of {before.size}",
                "let each stage's size be a multiple of the size before",
            )
    for stage in stages:
        _check_stage(stage, settings)
        _check_crop(stage, first=stage is stages[0])
    if not 0 <= 2 * settings.overlap <= settings.tile:
        raise CorgiError(
            f"tiles of {settings.tile} pixels cannot overlap by {settings.overlap}",
            "let them overlap by half a tile at most",
        )


def _check_stage(stage: StageSettings, settings: CascadeSettings) -> None:
    levels = len(stage.channels)
    if not levels or any(c < 8 or c % 8 for c in stage.channels):
        raise CorgiError(
            f"a UNet cannot have the channels {stage.channels}", "choose multiples of 8"
        )
    if not 0 <= stage.attention_levels <= levels:
        raise CorgiError(
            f"{stage.attention_levels} of {levels} levels cannot attend",
            f"set attention_levels to 0 … {levels}",
        )
    sides, unit = {"size": stage.size}, 2 ** (levels - 1)
    if stage.crop is not None:
        sides |= {"crop": stage.crop}
    if stage.size > settings.tile:
        sides |= {"tile": settings.tile, "overlap": settings.overlap}
    for name, pixels in sides.items():
        if pixels < 1 or pixels % unit:
            raise CorgiError(
                f"a UNet of {levels} levels halves its images {levels - 1} times, "
                f"but the {name} is {pixels} pixels",
                f"choose a multiple of {unit}, or fewer levels",
            )


def _check_crop(stage: StageSettings, *, first: bool) -> None:
    if stage.crop is None:
        return
    if first:
        raise CorgiError(
            "the first stage of a cascade cannot be trained on crops: it decodes whole images",
            "set its crop to null",
        )
    if stage.crop > stage.size:
        raise CorgiError(
            f"a stage of {stage.size} pixels cannot be trained on crops of {stage.crop}",
            "choose a crop that is no larger than the stage's size",
        )
