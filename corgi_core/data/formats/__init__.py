"""Readers, one for each format: each turns a path into a stream of samples, bytes untouched.

A reader is one function `read(path, caption_column)` that yields, in a fixed order,

- a `Sample` for every image: its key, its file's bytes, its captions (None without any), its split
  ("train", "validation", "test", or None to let Corgi split by `group`), and where it comes from;
- a `Skipped` for whatever it passes over, with a reason: a file that is no image, a bad row.

It raises CorgiError where nothing can be read at all. `READERS["name"] = read` makes it known to
`corgi ingest --format name`. Keys need not be legal: ingest replaces what a tar cannot hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from upath import UPath

from corgi_core.data.formats import (
    celeba,
    coco,
    cub,
    embeddings,
    emoji,
    image_folder,
    img2dataset,
    narratives,
    webdataset_shards,
)
from corgi_core.data.formats.conventions import Skipped
from corgi_core.data.shards import Sample

__all__ = ["READERS", "WITHOUT_PATH", "Reader", "Sample", "Skipped"]

WITHOUT_PATH = ("emoji", "emoji-full")
"""The formats whose images are in an installed package."""

Reader = Callable[[Path | UPath | None, str | None], Iterator[Sample | Skipped]]

READERS: dict[str, Reader] = {
    "celeba": celeba.read,
    "coco": coco.read,
    "cub": cub.read,
    "embeddings": embeddings.read,
    "emoji": emoji.read,
    "emoji-full": emoji.read_full,
    "imagefolder": image_folder.read,
    "img2dataset": img2dataset.read,
    "narratives": narratives.read,
    "webdataset": webdataset_shards.read,
}
