"""Readers, one for each format: each turns a path into a stream of samples, bytes untouched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from upath import UPath

from corgi_core.data.formats import embeddings, emoji, image_folder, webdataset_shards
from corgi_core.data.shards import Sample


class Reader(Protocol):
    """Reads the data at `path` in a fixed order; `caption_column` names where captions are."""

    def __call__(
        self, path: Path | UPath | None, caption_column: str | None = None
    ) -> Iterator[Sample]: ...


READERS: dict[str, Reader] = {
    "embeddings": embeddings.read,
    "emoji": emoji.read,
    "imagefolder": image_folder.read,
    "webdataset": webdataset_shards.read,
}
