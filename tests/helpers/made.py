"""Small real data for the tests of corgi_core.data: pictures by Pillow, samples, folders, tars."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from upath import UPath

from corgi_core.config import DataSettings
from corgi_core.data.shards import Sample

SETTINGS = DataSettings(shard_size=4, max_pixels=10_000, max_side=64)


def noise(name: str, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    """A picture of (width, height) `size` that is a function of its name alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), np.uint8)
    return Image.fromarray(values.squeeze(-1) if channels == 1 else values, mode)


def encoded(picture: Image.Image, suffix: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, suffix, **options)
    return file.getvalue()


def sample(key: str, image: bytes | None = None, **about: object) -> Sample:
    """A captioned sample of noise, in a group of its own, its split by its name."""
    splits = ("test", "validation", "train", "train", "test", "train", "train", "train")
    values: dict[str, object] = {
        "captions": [f"the picture {key}"],
        "split": splits[hashlib.sha256(key.encode()).digest()[0] % 8],
        "source": "noise",
        "group": key,
    } | about
    return Sample(key, encoded(noise(key)) if image is None else image, **values)


def samples(count: int) -> list[Sample]:
    return [sample(f"{number:04d}") for number in range(count)]


def folder_with(path: Path, files: dict[str, bytes | str]) -> UPath:
    """A folder of these files, by their paths in it."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        (path / name).write_bytes(data)
    return UPath(path)


def tar_with(path: Path, files: dict[str, bytes | str]) -> UPath:
    """A tar of these members, in this order; a content of `bytes` or `str`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return UPath(path)
