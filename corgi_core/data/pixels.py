"""Pixels: every image as a square of one size, ready for an encoder or a decoder's training."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from upath import UPath

from corgi_core.config import Framing
from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import Arrays, ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.prefetch import batched, in_order
from corgi_core.data.revisions import PIXELS_REVISION
from corgi_core.errors import CorgiError

STRIP = 8  # sides' ratio from which on a crop is not made of the whole resized picture
_BATCH = 32  # images; one at a time, handing them to threads takes a sixth of the time


@dataclass(frozen=True)
class Pixels(ArrayJob):
    """The gated images as the array "pixels", uint8 [n, 3, size, size] in 0..255.

    Attributes:
        images: The dataset. CorgiError where it holds precomputed embeddings.
        size: The squares' side in pixels.
        framing: How an image becomes a square, as `square` has it.
    """

    images: Dataset
    size: int
    framing: Framing = "letterbox"
    what = "pixels"
    revision = PIXELS_REVISION

    def __post_init__(self) -> None:
        if not self.images.holds_pictures:
            raise CorgiError(
                f"{self.images.folder} holds embeddings, not pictures",
                "use a preset for precomputed embeddings, such as --preset embeddings",
            )

    @property
    def about(self) -> dict[str, Any]:
        """The squares' size and framing."""
        return {"size": self.size, "framing": self.framing}

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a shard's name to its squares; it computes on CPUs alone."""
        decode = partial(decoded, size=self.size, framing=self.framing)

        def squares(shard: str) -> Arrays:
            batches = batched(self.images.images(shard), _BATCH)
            keys, pixels = zip(*in_order(decode, batches, threads), strict=True)
            return {"keys": np.concatenate(keys), "pixels": np.concatenate(pixels)}

        return squares


def pixels(
    images: Dataset, folder: Path | UPath, size: int, framing: Framing = "letterbox"
) -> ArrayStore:
    """The array of `Pixels`, of which this process computes the shards that are missing.

    CorgiError where the dataset holds precomputed embeddings.
    """
    return Pixels(images, size, framing).run(folder, "cpu", threads=os.cpu_count() or 1)


def decoded(
    files: Sequence[tuple[str, bytes]], size: int, framing: Framing
) -> tuple[np.ndarray, np.ndarray]:
    """The keys [n] and the squares, uint8 [n, 3, size, size], of (key, image file)."""
    keys, images = zip(*files, strict=True)
    return np.array(keys), np.stack([square(image, size, framing) for image in images])


def square(image: bytes, size: int, framing: Framing = "letterbox") -> np.ndarray:
    """An RGB image file as a square.

    Args:
        image: The file's bytes.
        size: The square's side in pixels.
        framing: "letterbox" is the whole image, padded with white. "crop" is its centre, scaled so
            that the shorter side fits, as CLIP's own preprocessing has it.

    Returns:
        uint8 [3, size, size].
    """
    if framing == "crop":
        return _centre(image, size)
    with Image.open(io.BytesIO(image)) as picture:
        left, top, right, bottom = letterboxed(*picture.size, size)
        inside = resized(picture, right - left, bottom - top)
    if inside.size == (size, size):
        return np.asarray(inside).transpose(2, 0, 1)
    padded = Image.new("RGB", (size, size), "white")
    padded.paste(inside, (left, top))
    return np.asarray(padded).transpose(2, 0, 1)


def letterboxed(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Where in a square the whole of an image lies: left, top, right and bottom, in pixels."""
    scale = size / max(width, height)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size - width) // 2, (size - height) // 2
    return left, top, left + width, top + height


def _centre(image: bytes, size: int) -> np.ndarray:
    """The square in the middle; sides and corners are rounded as torchvision's transforms do.

    Of a picture that is more than 8 times as long as wide, the middle alone is resized: its pixels
    are those of the whole but for rounding, and memory holds no strip of a thousand squares.
    """
    with Image.open(io.BytesIO(image)) as picture:
        width, height = (int(size * side / min(picture.size)) for side in picture.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        right, bottom = left + size, top + size
        if max(width, height) <= STRIP * size:
            whole = resized(picture, width, height, Image.Resampling.BICUBIC)
            return np.asarray(whole.crop((left, top, right, bottom))).transpose(2, 0, 1)
        colours = _colours(picture, width, height)
    across, down = colours.width / width, colours.height / height
    box = (left * across, top * down, right * across, bottom * down)
    middle = colours.resize((size, size), Image.Resampling.BICUBIC, box)
    return np.asarray(middle).transpose(2, 0, 1)


def resized(
    picture: Image.Image,
    width: int,
    height: int,
    by: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """A picture that was opened and not decoded yet, in RGB and of that size.

    Of a JPEG no more is decoded than a half, quarter or eighth of its sides with at least twice as
    many pixels a side as are asked for; what is finer would vanish.
    """
    return _colours(picture, width, height).resize((width, height), by)


def _colours(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture in RGB, decoded as `resized` says for that size."""
    picture.draft("RGB", (2 * width, 2 * height))
    picture.load()
    return picture if picture.mode == "RGB" else picture.convert("RGB")
