"""Image embeddings that somebody else computed, with captions: the priors alone."""

from __future__ import annotations

from dataclasses import replace

from corgi_core.config.emoji import EMOJI
from corgi_core.config.settings import DataSettings, Preset, StudySettings
from corgi_core.config.training import TrainingSettings
from corgi_core.config.variants import VARIANTS

EMBEDDINGS = Preset(
    name="embeddings",
    data=DataSettings(source="embeddings", shard_size=2000),
    encoders=replace(  # text towers are fitted to the embeddings
        EMOJI.encoders, text_tokens=32,
        training=TrainingSettings(
            steps=1500, batch_size=512, learning_rate=1e-3, weight_decay=0.1, ema_decay=0.99,
            checkpoint_every=500, evaluate_every=250,
        ),
    ),
    prior=replace(
        EMOJI.prior, width=512, heads=8,  # no narrower than one CLIP's embeddings
        training=TrainingSettings(
            steps=600, batch_size=256, learning_rate=2e-3, ema_decay=0.99,
            checkpoint_every=200, evaluate_every=200,
        ),
    ),
    decoders=(),
    study=StudySettings(
        training=TrainingSettings(
            steps=300, batch_size=64, learning_rate=2e-3, ema_decay=0.99,
            checkpoint_every=150, evaluate_every=100,
        ),
        spread_captions=64, spread_samples=4,
    ),
    variants=VARIANTS,
)  # fmt: skip
