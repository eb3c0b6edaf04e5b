"""Pixels: every image as a square of one size, ready for an encoder or a decoder's training."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from upath import UPath

from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset
from corgi_core.errors import CorgiError


def pixels(images: Dataset, folder: Path | UPath, size: int) -> ArrayStore:
    """The gated `images` as the array "pixels", uint8 [n, 3, size, size] in 0..255.

    CorgiError where the dataset holds precomputed embeddings.
    """
    if not images.manifest["width"].notna().any():
        raise CorgiError(
            f"{images.folder} holds embeddings, not pictures",
            "use a preset for precomputed embeddings, such as --preset embeddings",
        )

    def compute(shard: str) -> dict[str, np.ndarray]:
        keys, squares = zip(*((k, square(i, size)) for k, i in images.images(shard)), strict=True)
        return {"keys": np.array(keys), "pixels": np.stack(squares)}

    return compute_missing(folder, images, {"size": size}, compute, f"pixels at {size}")


def square(image: bytes, size: int) -> np.ndarray:
    """An RGB image file, padded with white to a square and resized: uint8 [3, size, size]."""
    with Image.open(io.BytesIO(image)) as picture:
        side = max(picture.size)
        padded = Image.new("RGB", (side, side), "white")
        padded.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(padded.resize((size, size), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
