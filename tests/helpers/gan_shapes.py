"""GANs small enough to learn the sixteen coloured shapes, or to take a few steps, in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from corgi_core.config import GanSettings, LafiteSettings, preset_named
from corgi_core.data.arrays import compute_missing
from corgi_core.data.keys import ListedKeys
from corgi_core.data.pixels import pixels
from corgi_core.decoders.gan.task import GanTask
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.embed import encoder_spec
from tests.helpers.shapes import KNOWN, SIDE, WIDTH, random_embeddings, write_shapes
from tests.helpers.tiny_vit import tiny_vit
from tests.helpers.whole import manifest_of

PRESET = preset_named("emoji")
SIZES: dict[str, Any] = {
    "image_size": SIDE, "latent_width": 16, "channel_base": 256, "max_channels": 32,
    "training": replace(
        PRESET.decoder_of("gan").training, steps=12, batch_size=8, warmup_steps=2, ema_decay=0.9,
        precision="fp32", evaluate_every=12, checkpoint_every=4,
    ),
}  # fmt: skip
TINY: GanSettings = replace(PRESET.decoder_of("gan"), **SIZES)
TINY_LAFITE: LafiteSettings = replace(PRESET.decoder_of("lafite"), **SIZES)
LEARNING = replace(  # the shapes' embeddings are random: this CLIP has nothing to say of them
    TINY, perturbed=0.0, clip_weight=0.0, layout_weight=0.0, semantic_weight=3.0,
    r1_gamma=0.02, path_weight=0.2,
    training=replace(
        TINY.training, steps=160, batch_size=KNOWN, learning_rate=0.1, warmup_steps=10,
        ema_decay=0.98, evaluate_every=160, checkpoint_every=1000,
    ),
)  # fmt: skip
T = TypeVar("T", bound=GanTask)


def tiny_clip(seed: int = 0) -> ClipEnsemble:
    torch.manual_seed(seed)
    return ClipEnsemble([tiny_vit("tiny-vit", WIDTH, layers=1, context_length=77)])


def a_gan_task(
    folder: Path,
    kind: type[T] = GanTask,
    settings: GanSettings = TINY,  # type: ignore[assignment]
) -> T:
    """Sixteen shapes with random embeddings, said to be a tiny CLIP's."""
    images, clip = write_shapes(folder), tiny_clip()
    embeddings = compute_missing(
        folder / "embeddings", images, encoder_spec(clip),
        lambda shard: random_embeddings(images, shard, WIDTH), "embeddings",
    )  # fmt: skip
    keys = ListedKeys(tuple(manifest_of(images)["key"]))
    return kind(settings, pixels(images, folder / "pixels", SIDE), embeddings, keys, keys, clip)
