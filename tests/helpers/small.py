"""A dataset of six tiny images, written as the core writes datasets."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from upath import UPath

from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.shards import Sample


def png(seed: int) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


PNGS = [png(seed) for seed in range(6)]


def write_images(folder: UPath, groups: list[str], splits: list[str]) -> Dataset:
    samples = [
        Sample(f"key{n}", image, [f"picture {n}"], split, "test", group, "png")
        for n, (image, group, split) in enumerate(zip(PNGS, groups, splits, strict=True))
    ]
    return write_dataset(folder, samples, shard_size=6)
