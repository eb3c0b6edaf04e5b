"""Perceptual hashes stay with a copy of an image, and differ between images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
from PIL import Image, ImageFilter

from benchmarks.embedding_systems.photographs import photograph as camera
from corgi_core.config import ZeroShotSettings
from corgi_core.data.dataset import write_dataset
from corgi_core.data.formats.emoji import read
from corgi_core.data.pixels import pixels, square
from corgi_core.data.shards import Sample
from corgi_core.evaluation.perceptual import PerceptualHashes, nearest_hash, perceptual_hashes
from tests.helpers.made import encoded

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


def copies(picture: Image.Image) -> dict[str, Image.Image]:
    """What people make of an image before they publish it again."""
    width, height = picture.size
    margin = (round(0.01 * width), round(0.01 * height))
    inside = (*margin, width - margin[0], height - margin[1])
    half = picture.resize((width // 2, height // 2))
    return {"resized": half, "recompressed": compressed(half, 30), "cropped": picture.crop(inside)}


def compressed(picture: Image.Image, quality: int) -> Image.Image:
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=quality)
    return Image.open(content)


def emoji(count: int) -> list[Image.Image]:
    """Some emoji, each in one skin tone, on white."""
    every = [sample for sample in read() if "skin tone" not in (sample.captions or [""])[0]]
    found = []
    for number in np.random.default_rng(0).choice(len(every), count, replace=False):
        picture = Image.open(io.BytesIO(every[number].image)).convert("RGBA")
        found.append(Image.new("RGB", picture.size, "white"))
        found[-1].paste(picture, mask=picture)
    return found


def hashes_of(pictures: list[Image.Image], folder: Path) -> np.ndarray:
    """As an evaluation computes them, of letterboxed squares."""
    samples = [
        Sample(f"{n:03d}", encoded(picture), None, "test", "made", f"{n}", "png")
        for n, picture in enumerate(pictures)
    ]
    images = write_dataset(folder / "images", samples, shard_size=40)
    squares = pixels(images, folder / "pixels", SIDE)
    return PerceptualHashes(images, squares).run(folder / "hashes", "cpu", 1).read("hash")


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("photographs", {"resized": 1.0, "recompressed": 1.0, "cropped": 0.9}),
        ("emoji", {"resized": 0.85, "recompressed": 0.6, "cropped": 0.7}),
    ],
)
def test_how_many_copies_are_found_and_how_many_others(
    kind: str, least: dict[str, float], tmp_path: Path
) -> None:
    """At the threshold of the settings; photographs are three times as wide as high."""
    bits = ZeroShotSettings(dataset="others").bits
    pictures = emoji(40)
    if kind == "photographs":
        files = [camera(seed, 120, 40) for seed in range(40)]
        pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    own = hashes_of(pictures, tmp_path / "own")
    apart = np.bitwise_count(own[:, None] ^ own[None])[np.triu_indices(len(own), 1)]
    assert (apart <= bits).mean() <= 0.002  # of 780 pairs, one at most: vendors copy each other
    for way, found in least.items():
        made = hashes_of([copies(picture)[way] for picture in pictures], tmp_path / way)
        assert (np.bitwise_count(own ^ made) <= bits).mean() >= found, way


def test_an_image_that_changes_its_split_still_has_its_hash(tmp_path: Path) -> None:
    """Stored hashes hold as long as the images are the same."""
    for split in ("validation", "train"):
        sample = Sample("a", encoded(photograph(0)), None, split, "made", "a", "png")
        images = write_dataset(tmp_path / split, [sample], shard_size=1)
        squares = pixels(images, tmp_path / "pixels", SIDE)
        job = PerceptualHashes(images, squares)
        assert job.run(tmp_path / "hashes", "cpu", 1).read("hash").shape == (1,)


def test_bars_are_no_part_of_a_hash(tmp_path: Path) -> None:
    wide = photograph(0).resize((200, 50))
    (hashed,) = hashes_of([wide], tmp_path)
    inside = np.asarray(wide.resize((SIDE, SIDE // 4), Image.Resampling.LANCZOS))
    assert perceptual_hashes(inside.transpose(2, 0, 1)[None])[0] == hashed


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
