"""Every setting of Corgi: one schema, one YAML file a preset, and what is laid over it.

A preset is data. Assets read their sections of it, and the sections' digests are part of their code
versions, so another number makes exactly what depends on it stale.
"""

from __future__ import annotations

from corgi_core.config.loading import PRESETS, Layer, LoadedPreset, load_preset, preset_named
from corgi_core.config.schema import (
    DECODER_SETTINGS,
    FITTED,
    TRAINED,
    CascadeSettings,
    ComparisonSettings,
    DataSettings,
    DecoderSettings,
    EncoderSettings,
    EvaluationSettings,
    Framing,
    GanSettings,
    GaussianSettings,
    InferencePrecision,
    LafiteSettings,
    LanguageFreeSettings,
    PCASettings,
    PixelSource,
    Preset,
    PriorSettings,
    RaySettings,
    StableDiffusionSettings,
    StageSettings,
    StudySettings,
    TextFeatures,
    TrainingSettings,
    ZeroShotSettings,
    settings_from,
)
from corgi_core.config.variants import (
    ALL_CAPTIONS,
    BASELINE,
    CAPTION_SUBSETS,
    LANGUAGE_FREE,
    NO_SUBSET,
    VARIANTS,
    clusters_of,
    fraction_of,
    is_learned,
    is_of_captions,
)

__all__ = [
    "ALL_CAPTIONS", "BASELINE", "CAPTION_SUBSETS", "DECODER_SETTINGS", "FITTED", "LANGUAGE_FREE",
    "NO_SUBSET", "PRESETS", "TRAINED", "VARIANTS", "CascadeSettings", "ComparisonSettings",
    "DataSettings", "DecoderSettings", "EncoderSettings", "EvaluationSettings", "Framing",
    "GanSettings",
    "GaussianSettings", "InferencePrecision", "LafiteSettings", "LanguageFreeSettings", "Layer",
    "LoadedPreset", "PCASettings", "PixelSource", "Preset", "PriorSettings", "RaySettings",
    "StableDiffusionSettings",
    "StageSettings", "StudySettings", "TextFeatures", "TrainingSettings", "ZeroShotSettings",
    "clusters_of", "fraction_of", "is_learned", "is_of_captions",
    "load_preset", "preset_named", "settings_from",
]  # fmt: skip
