"""Emoji: minutes on a laptop, and a smaller preset for the tests."""

from __future__ import annotations

from dataclasses import replace

from corgi_core.presets.decoders import CascadeSettings, ComponentsSettings, StageSettings
from corgi_core.presets.settings import (
    DataSettings,
    EncoderSettings,
    EvaluationSettings,
    Preset,
    PriorSettings,
    StudySettings,
)
from corgi_core.presets.training import TrainingSettings

_COMPONENTS = ComponentsSettings(
    image_size=64, components=1024, width=1024, vectors=8, vector_width=256,
    blurred=0.5, least_cosine=0.7, noise_shift=-3.0, embedding_dropout=0.1, guidance=1.0,
    sampling_steps=12,
    training=TrainingSettings(
        steps=1000, batch_size=512, learning_rate=1.5e-3, weight_decay=0.01, ema_decay=0.995,
        evaluate_every=250, checkpoint_every=250,
    ),
)  # fmt: skip

_CASCADE = CascadeSettings(
    image_size=64,
    stages=(
        StageSettings(
            size=32, channels=(64, 128, 192), layers=1, attending=2, noise_shift=-1.0,
        ),
        StageSettings(
            size=64, channels=(32, 64, 96, 128), layers=1, attending=1, noise_shift=-1.0,
        ),
    ),
    vectors=8, vector_width=128, prediction="v", condition_noise=0.5, sampling_noise=0.1,
    blurred=0.5, least_cosine=0.7, embedding_dropout=0.1, guidance=1.0, sampling_steps=12,
    training=TrainingSettings(
        steps=3000, batch_size=32, learning_rate=5e-4, weight_decay=0.01, ema_decay=0.998,
        warmup_steps=100, evaluate_every=1000, checkpoint_every=250,
    ),
)  # fmt: skip

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
        width=256, layers=1, heads=4, draws=4, text_dropout=0.1, p2_gamma=0.0,
        guidance=1.0, sampling_steps=4,
        training=TrainingSettings(
            steps=1000, batch_size=128, learning_rate=3e-3, ema_decay=0.99,
            checkpoint_every=250, evaluate_every=250,
        ),
    ),
    decoders=(_COMPONENTS, _CASCADE),
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
    decoders=(
        replace(
            _COMPONENTS, image_size=32, components=256, width=256, vector_width=64,
            sampling_steps=8,
            training=TrainingSettings(
                steps=200, batch_size=128, learning_rate=2e-3, warmup_steps=10, ema_decay=0.95,
            ),
        ),
        replace(
            _CASCADE, image_size=32,
            stages=(
                StageSettings(
                    size=16, channels=(32, 64), layers=1, attending=1, noise_shift=-1.0,
                ),
                StageSettings(
                    size=32, channels=(16, 32, 64), layers=1, attending=0, noise_shift=-1.0,
                ),
            ),
            vector_width=64, sampling_steps=4,
            training=TrainingSettings(
                steps=100, batch_size=32, learning_rate=2e-3, warmup_steps=10, ema_decay=0.95,
            ),
        ),
    ),
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
