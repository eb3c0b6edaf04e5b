"""GANs small enough to learn the twelve coloured shapes, or to take a few steps, in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from shapes import SHAPES, SIDE, WIDTH, random_embeddings, write_shapes
from tiny_vit import tiny_vit

from corgi_core.data.arrays import compute_missing
from corgi_core.data.pixels import pixels
from corgi_core.decoders.gan.task import GanTask
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.embed import encoder_spec
from corgi_core.presets import TrainingSettings, preset_named

T = TypeVar("T", bound=GanTask)
TRAINING = replace(
    preset_named("emoji").decoder_of("gan").training, steps=600, batch_size=SHAPES,
    warmup_steps=10, ema_decay=0.98, precision="fp32", evaluate_every=10_000,
)  # fmt: skip
SIZES = {"image_size": SIDE, "latent_width": 16, "channel_base": 256, "channel_most": 32}
TINY = replace(
    preset_named("emoji").decoder_of("gan"), **SIZES, blurred=0.0, clip_weight=0.0, r1_gamma=0.1,
    training=TRAINING,
)  # fmt: skip
TINY_LAFITE = replace(
    preset_named("emoji").decoder_of("lafite"), **SIZES, clip_weight=0.0, training=TRAINING
)


def tiny_clip(width: int = WIDTH) -> ClipEnsemble:
    torch.manual_seed(0)
    return ClipEnsemble([tiny_vit("tiny-vit", width, layers=1, context_length=77)])


def a_gan_task(folder: Path, kind: type[T] = GanTask, settings=TINY) -> T:
    """Twelve shapes with random embeddings, said to be of a tiny CLIP's space."""
    images, clip = write_shapes(folder), tiny_clip()
    embeddings = compute_missing(
        folder / "embeddings", images, encoder_spec(clip),
        lambda shard: random_embeddings(images, shard, WIDTH), "embeddings",
    )  # fmt: skip
    keys = tuple(images.manifest["key"])
    return kind(settings, pixels(images, folder / "pixels", SIDE), embeddings, keys, keys, clip)
