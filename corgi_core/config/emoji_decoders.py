"""The decoders of the emoji presets; the first of each draws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from corgi_core.config.decoders import (
    CascadeSettings,
    GanSettings,
    LafiteSettings,
    PCASettings,
    StageSettings,
)
from corgi_core.config.training import TrainingSettings

_PCA = PCASettings(
    image_size=64, components=1024, width=1024, vectors=8, vector_width=256,
    perturbed=0.5, min_cosine=0.7, noise_shift=-3.0, cond_dropout=0.1, guidance=1.0,
    num_steps=12,
    training=TrainingSettings(
        steps=1000, batch_size=512, learning_rate=1.5e-3, weight_decay=0.01, ema_decay=0.995,
        evaluate_every=250, checkpoint_every=250,
    ),
)  # fmt: skip

_CASCADE = CascadeSettings(
    image_size=64,
    stages=(
        StageSettings(
            size=32, channels=(32, 64, 128, 256), layers=1, attention_levels=1, noise_shift=-1.0,
        ),
        StageSettings(
            size=64, channels=(24, 48, 96, 128), layers=1, attention_levels=0, noise_shift=-1.0,
        ),
    ),
    vectors=8, vector_width=128, prediction="v", condition_noise=0.5, sampling_noise=0.1,
    perturbed=0.5, min_cosine=0.7, cond_dropout=0.1, guidance=1.0, num_steps=8,
    training=TrainingSettings(
        steps=1200, batch_size=32, learning_rate=1e-3, weight_decay=0.01, ema_decay=0.995,
        warmup_steps=100, evaluate_every=600, checkpoint_every=200,
    ),
)  # fmt: skip
_ADVERSARIAL: dict[str, Any] = {
    "image_size": 64, "latent_width": 128, "channel_base": 1024, "max_channels": 128,
    "clip_weight": 5.0, "layout_weight": 20.0, "semantic_weight": 1.0, "r1_gamma": 1.0,
    "path_weight": 0.2, "augment_pictures": 20_000,
    "training": TrainingSettings(
        steps=1000, batch_size=32, learning_rate=5e-2, weight_decay=0.0, betas=(0.0, 0.99),
        epsilon=1e-8, clip_norm=100.0, ema_decay=0.99, evaluate_every=500, checkpoint_every=250,
    ),
}  # fmt: skip
_GAN = GanSettings(perturbed=0.5, min_cosine=0.7, **_ADVERSARIAL)
_LAFITE = LafiteSettings(**_ADVERSARIAL)

EMOJI_DECODERS = (_PCA, _CASCADE, _GAN, _LAFITE)

_SMALL_ADVERSARIAL: dict[str, Any] = {
    "image_size": 32, "latent_width": 32, "channel_base": 512, "max_channels": 32,
    "training": replace(
        _GAN.training, steps=100, batch_size=16, warmup_steps=10, ema_decay=0.95,
        evaluate_every=100, checkpoint_every=50,
    ),
}  # fmt: skip

EMOJI_SMALL_DECODERS = (
    replace(
        _PCA, image_size=32, components=256, width=256, vector_width=64,
        num_steps=8,
        training=TrainingSettings(
            steps=200, batch_size=128, learning_rate=2e-3, warmup_steps=10, ema_decay=0.95,
        ),
    ),
    replace(
        _CASCADE, image_size=32,
        stages=(
            StageSettings(
                size=16, channels=(32, 64), layers=1, attention_levels=1, noise_shift=-1.0,
            ),
            StageSettings(
                size=32, channels=(16, 32, 64), layers=1, attention_levels=0, noise_shift=-1.0,
            ),
        ),
        vector_width=64, num_steps=4,
        training=TrainingSettings(
            steps=100, batch_size=32, learning_rate=2e-3, warmup_steps=10, ema_decay=0.95,
        ),
    ),
    replace(_GAN, **_SMALL_ADVERSARIAL),
    replace(_LAFITE, **_SMALL_ADVERSARIAL),
)  # fmt: skip
