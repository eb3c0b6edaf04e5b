"""A decoder small enough to memorise sixteen coloured shapes in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from corgi_core.config import DataSettings, PCASettings, TrainingSettings, preset_named
from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset
from corgi_core.data.ingest import ingest
from corgi_core.data.keys import ListedKeys
from corgi_core.data.pixels import pixels
from corgi_core.decoders.pca.task import PCATask
from corgi_core.decoders.task import DecoderTask
from tests.helpers.whole import manifest_of

SIDE, WIDTH, SHAPES = 16, 16, 16
KNOWN = 8  # every other of the sixteen: four discs and four bars of the same colours
TINY = replace(
    preset_named("emoji").decoder_of("pca"),
    image_size=SIDE, components=64, width=128, vectors=2, vector_width=32, perturbed=0.0,
    cond_dropout=0.1, guidance=1.0, num_steps=6,
    training=TrainingSettings(
        steps=250, batch_size=SHAPES, learning_rate=6e-3, warmup_steps=20, ema_decay=0.97,
        precision="fp32", evaluate_every=250,
    ),
)  # fmt: skip


T = TypeVar("T", bound=DecoderTask)


def coloured_shape(number: int) -> Image.Image:
    """A disc or a bar of one of eight colours on white."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    colours = ("red", "green", "blue", "black", "orange", "purple", "cyan", "pink")
    disc = number < len(colours)
    canvas = ImageDraw.Draw(picture)
    (canvas.ellipse if disc else canvas.rectangle)(
        (3, 3, 12, 12) if disc else (1, 6, 14, 9), colours[number % len(colours)]
    )
    return picture


def a_task(folder: Path, settings: PCASettings = TINY, width: int = WIDTH) -> PCATask:
    """Sixteen shapes with random embeddings, written and read as every dataset is."""
    images = write_shapes(folder)
    spec = {"encoder": "a-clip", "names": ["a"], "encoder_dims": [width], "width": width}
    embeddings = compute_missing(
        folder / "embeddings", images, spec, lambda shard: random_embeddings(images, shard, width),
        "embeddings",
    )  # fmt: skip
    keys = ListedKeys(tuple(manifest_of(images)["key"]))
    return PCATask(settings, pixels(images, folder / "pixels", SIDE), embeddings, keys, keys)


def knowing_half(task: T) -> T:
    """The same training of KNOWN shapes alone, for networks that take long to learn each."""
    keys = ListedKeys(tuple(sorted(task.embeddings.keys.tolist())[::2]))
    return replace(task, train_keys=keys, validation_keys=keys)


def write_shapes(folder: Path) -> Dataset:
    source = folder / "shapes"
    source.mkdir(parents=True)
    for number in range(SHAPES):
        coloured_shape(number).save(source / f"{number:02}.png")
    return ingest("imagefolder", str(source), folder / "images", DataSettings(), seed=0)


def random_embeddings(images: Dataset, shard: str, width: int) -> dict[str, np.ndarray]:
    keys = images.rows(shard, "key")["key"].to_numpy(str)
    z = np.random.default_rng(0).standard_normal((len(keys), width))
    z *= np.sqrt(width) / np.linalg.norm(z, axis=1, keepdims=True)
    return {"keys": keys, "image": z.astype(np.float16)}


def keys_of(task: DecoderTask) -> list[str]:
    """The training images' keys, in their order."""
    return [key for n in range(len(task.embeddings.shards)) for key in task.images.shard_keys(n)]


def embeddings_of(task: DecoderTask) -> np.ndarray:
    store: ArrayStore = task.embeddings
    return store.read("image")[store.rows_of(keys_of(task))].astype(np.float32)


def pictures_of(task: DecoderTask) -> Tensor:
    """The training images' pixels, uint8 [n, 3, s, s]."""
    store: ArrayStore = task.pixels
    return torch.from_numpy(store.read("pixels")[store.rows_of(keys_of(task))])
