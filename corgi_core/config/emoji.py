"""Emoji: minutes on a laptop, and a smaller preset for the tests."""

from __future__ import annotations

from dataclasses import replace

from corgi_core.config.emoji_decoders import EMOJI_DECODERS, EMOJI_SMALL_DECODERS
from corgi_core.config.settings import (
    DataSettings,
    EncoderSettings,
    EvaluationSettings,
    LanguageFreeSettings,
    Preset,
    PriorSettings,
    StudySettings,
)
from corgi_core.config.training import TrainingSettings

EMOJI = Preset(
    name="emoji",
    data=DataSettings(),
    encoders=EncoderSettings(
        clip=("trained",), text="minilm", text_tokens=24,
        image_size=64, width=256, tower_layers=(1, 1, 1, 1), tower_channels=24,
        training=TrainingSettings(
            steps=340, batch_size=256, learning_rate=2e-3, ema_decay=0.99,
            checkpoint_every=85, evaluate_every=170,
        ),
    ),
    prior=PriorSettings(
        width=256, layers=1, heads=4, noise_samples=4, cond_dropout=0.1, p2_gamma=0.0,
        guidance=1.0, num_steps=4,
        training=TrainingSettings(
            steps=1000, batch_size=128, learning_rate=3e-3, ema_decay=0.99,
            checkpoint_every=250, evaluate_every=250,
        ),
    ),
    decoders=EMOJI_DECODERS,
    language_free=LanguageFreeSettings(source="twemoji"),
)  # fmt: skip

# The same graph in minutes, for the tests: fewer and smaller of everything.
EMOJI_SMALL = Preset(
    name="emoji-small",
    data=DataSettings(limit=600, shard_size=100, test_fraction=0.15),
    encoders=replace(
        EMOJI.encoders, image_size=32, width=64, tower_channels=8,
        training=TrainingSettings(
            steps=60, batch_size=64, learning_rate=2e-3, warmup_steps=10, ema_decay=0.9,
        ),
    ),
    prior=replace(
        EMOJI.prior, width=64, layers=2,
        training=TrainingSettings(
            steps=120, batch_size=32, learning_rate=2e-3, warmup_steps=10, ema_decay=0.95,
            checkpoint_every=30, evaluate_every=60,
        ),
    ),
    decoders=EMOJI_SMALL_DECODERS,
    language_free=EMOJI.language_free,
    evaluation=EvaluationSettings(images=24, grid_rows=6),
    study=StudySettings(
        training=TrainingSettings(
            steps=40, batch_size=32, learning_rate=2e-3, warmup_steps=10, ema_decay=0.9,
            checkpoint_every=20, evaluate_every=20,
        ),
        seeds=(0, 1), gaussians=(1, 16), kappas=(1.0, 3.0), guidances=(1.0, 2.0),
        captions=(0.1, 1.0), samplers=("ddpm", "dpm++"), steps=(1, 4, 8), main_steps=(1, 8),
        guided_steps=4, spread_captions=30, spread_samples=4,
    ),
)  # fmt: skip
