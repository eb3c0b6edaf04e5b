"""How much a preset stores of every image for its trainings: its pixels, or where its file lies."""

from __future__ import annotations

from dataclasses import dataclass

from corgi_core.config import PixelSource, Preset
from corgi_core.data.dataset import Dataset

_NUMBERS, _SHA256 = 2 * 8, 32  # bytes of an image file's position, and of what verifies it
_KEY = 13  # of a key of nine letters, as img2dataset has them, in a list


@dataclass(frozen=True)
class PixelStorage:
    """What is stored of images beside their files and embeddings.

    Attributes:
        source: "stored" pixels, or images that are decoded "online".
        size: Pixels to a side of the squares.
        images: Of the dataset; 0 without one.
    """

    source: PixelSource
    size: int
    images: int

    @property
    def stored(self) -> int:
        """Bytes of an image's pixels."""
        return 3 * self.size**2

    @property
    def each(self) -> int:
        """Bytes that are stored of an image."""
        return self.stored if self.source == "stored" else _NUMBERS + _SHA256 + _KEY


def pixel_storage(preset: Preset, images: Dataset | None = None) -> PixelStorage | None:
    """What a preset stores of images; None for embeddings alone."""
    if preset.image_size is None:
        return None
    return PixelStorage(preset.pixels, preset.image_size, 0 if images is None else len(images))
