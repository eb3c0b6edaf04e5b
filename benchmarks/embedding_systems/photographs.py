"""Photographs that nobody took: JPEG files with real ones' spectrum and edges, in tars."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

DECAY = 1.2  # natural images' amplitudes fall with about 1 / frequency, and a lens blurs them
SHAPES = 24
QUALITY = 90  # a file of 640 × 480 then has about 100 kB, as cameras' and COCO's have


def photograph(seed: int, width: int, height: int) -> bytes:
    """A JPEG file: a textured scene of overlapping shapes under uneven light, a bit out of focus.

    The texture's amplitudes fall with frequency as those of natural images do.
    """
    random = np.random.default_rng(seed)
    scene = Image.new("RGB", (width, height), _colour(random))
    canvas = ImageDraw.Draw(scene)
    for _ in range(SHAPES):
        x, y = random.uniform(-0.2, 1.0, 2) * (width, height)
        w, h = random.uniform(0.05, 0.6, 2) * (width, height)
        shape = canvas.ellipse if random.random() < 0.5 else canvas.rectangle
        shape((x, y, x + w, y + h), fill=_colour(random))
    blurred = scene.filter(ImageFilter.GaussianBlur(1.0))
    light = _texture(random, width, height)[..., None]
    colours = np.stack([_texture(random, width, height) for _ in range(3)], axis=-1)
    pixels = np.asarray(blurred, np.float32) + 28 * light + 8 * colours
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _colour(random: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = random.integers(20, 236, 3).tolist()
    return red, green, blue


def _texture(random: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    """Random phases under a falling spectrum; [height, width], standard deviation 1."""
    across, down = np.fft.rfftfreq(width) * width, np.fft.fftfreq(height) * height
    frequency = np.hypot(across[None], down[:, None])
    frequency[0, 0] = np.inf
    noise = np.fft.rfft2(random.normal(size=(height, width)))
    texture = np.fft.irfft2(noise / frequency**DECAY, s=(height, width))
    return (texture / texture.std()).astype(np.float32)
