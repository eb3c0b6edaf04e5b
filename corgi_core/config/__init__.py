"""Every setting of Corgi in one aligned table: the presets, from a laptop to a cluster.

A preset is data. Assets read their part of it, and its digest is part of their code version, so
changing a number here marks exactly what depends on it as stale.
"""

from __future__ import annotations

from corgi_core.config.decoders import (
    DECODER_SETTINGS,
    CascadeSettings,
    DecoderSettings,
    GanSettings,
    LafiteSettings,
    PCASettings,
    StableDiffusionSettings,
    StageSettings,
)
from corgi_core.config.embeddings import EMBEDDINGS
from corgi_core.config.emoji import EMOJI, EMOJI_SMALL
from corgi_core.config.settings import (
    ComparisonSettings,
    DataSettings,
    EncoderSettings,
    EvaluationSettings,
    GaussianSettings,
    LanguageFreeSettings,
    Preset,
    PriorSettings,
    StudySettings,
    settings_from,
)
from corgi_core.config.stable_diffusion import with_stable_diffusion
from corgi_core.config.training import TrainingSettings
from corgi_core.config.variants import (
    BASELINE,
    CAPTION_SUBSETS,
    LANGUAGE_FREE,
    VARIANTS,
    clusters_of,
    fraction_of,
    is_learned,
)
from corgi_core.errors import CorgiError

__all__ = [
    "BASELINE",
    "CAPTION_SUBSETS",
    "DECODER_SETTINGS",
    "LANGUAGE_FREE",
    "PRESETS",
    "VARIANTS",
    "CascadeSettings",
    "ComparisonSettings",
    "DataSettings",
    "DecoderSettings",
    "EncoderSettings",
    "EvaluationSettings",
    "GanSettings",
    "GaussianSettings",
    "LafiteSettings",
    "LanguageFreeSettings",
    "PCASettings",
    "Preset",
    "PriorSettings",
    "StableDiffusionSettings",
    "StageSettings",
    "StudySettings",
    "TrainingSettings",
    "clusters_of",
    "fraction_of",
    "is_learned",
    "preset_named",
    "settings_from",
    "with_stable_diffusion",
]  # fmt: skip

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (EMOJI, EMOJI_SMALL, EMBEDDINGS)}


def preset_named(name: str) -> Preset:
    """The preset of that name; a CorgiError that lists the known ones if there is none."""
    if name not in PRESETS:
        raise CorgiError(f"there is no preset {name!r}", f"choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
