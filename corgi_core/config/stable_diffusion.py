"""Stable Diffusion beside a preset's own decoders: its weights are too large to be embedded."""

from __future__ import annotations

from dataclasses import replace

from corgi_core.config.decoders import StableDiffusionSettings
from corgi_core.config.settings import Preset
from corgi_core.config.training import TrainingSettings
from corgi_core.errors import CorgiError


def with_stable_diffusion(preset: Preset, pretrained: str) -> Preset:
    """The preset with one decoder more, fine-tuned from a hub id or a pipeline's folder.

    Its pictures are as large as those of the preset's own decoder. Raises CorgiError for a preset
    without pictures.
    """
    if preset.decoder is None:
        raise CorgiError(
            f"the preset {preset.name} has embeddings only, and no pictures to learn from",
            "leave CORGI_STABLE_DIFFUSION unset, or choose a preset with pictures",
        )
    added = StableDiffusionSettings(
        pretrained=pretrained, image_size=preset.decoder.image_size,
        perturbed=0.5, min_cosine=0.7, cond_dropout=0.1, guidance=3.0, num_steps=25,
        training=TrainingSettings(
            steps=5000, batch_size=32, learning_rate=1e-4, weight_decay=0.01, warmup_steps=200,
            evaluate_every=1000, checkpoint_every=500,
        ),
    )  # fmt: skip
    return replace(preset, decoders=(*preset.decoders, added))
