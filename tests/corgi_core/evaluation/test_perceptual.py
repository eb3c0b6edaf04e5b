"""Perceptual hashes stay with a copy of an image, and differ between images."""

from __future__ import annotations

import io

import numpy as np
import scipy.fft
from PIL import Image, ImageFilter

from corgi_core.data.pixels import square
from corgi_core.evaluation.perceptual import nearest_hash, perceptual_hashes

SIDE = 64


def photograph(seed: int, side: int = 200) -> Image.Image:
    """Smooth random colours, as photographs are."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
    return picture.filter(ImageFilter.GaussianBlur(2))


def stored(picture: Image.Image, **options: object) -> np.ndarray:
    content = io.BytesIO()
    picture.save(content, **{"format": "PNG"} | options)
    return square(content.getvalue(), SIDE)


def bits_between(a: np.ndarray, b: np.ndarray) -> int:
    first, second = perceptual_hashes(np.stack([a, b])).tolist()
    return bin(first ^ second).count("1")


def test_scaled_and_compressed_copies_differ_in_a_few_bits_and_others_in_many() -> None:
    for seed in range(20):
        original = photograph(seed)
        copy = original.resize((90, 90), Image.Resampling.LANCZOS)
        assert bits_between(stored(original), stored(copy, format="JPEG", quality=60)) <= 4
        assert bits_between(stored(original), stored(photograph(seed + 100))) >= 16


def test_bits_are_those_of_scipys_cosine_transform() -> None:
    squares = np.stack([stored(photograph(seed)) for seed in range(5)])
    found = perceptual_hashes(squares).view(np.uint8).reshape(5, 8)
    for image, hashed in zip(squares, found, strict=True):
        grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        small = np.asarray(
            Image.fromarray(grey.astype(np.float32)).resize((32, 32), Image.Resampling.BILINEAR)
        )
        low = scipy.fft.dctn(small, type=2)[1:9, 1:9].ravel()
        expected = low > np.median(low)
        assert (np.unpackbits(hashed).astype(bool) != expected).sum() <= 2  # rounded elsewhere


def test_the_nearest_hash_is_the_one_with_the_fewest_other_bits() -> None:
    random = np.random.default_rng(0)
    among = random.integers(0, 2**63, 50, dtype=np.uint64)
    hashes = among[[3, 40]] ^ np.array([0b101, 0], np.uint64)
    nearest, bits = nearest_hash(hashes, among)
    assert nearest.tolist() == [3, 40]
    assert bits.tolist() == [2, 0]
