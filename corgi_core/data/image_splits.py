"""Which images a dataset has, and in which split each is: all that training without captions reads.

Its digest stays when captions arrive for images that were there, so that what learns from images
alone need not be trained again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from upath import UPath

from corgi_core.data.dataset import Dataset, sources_of
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of, read_json, write_json

FILE = "splits.json"


@dataclass(frozen=True)
class ImageSplits:
    """The digest of each shard's keys, images, splits and sources, by the shard's name."""

    shards: Mapping[str, str]

    @classmethod
    def of(cls, images: Dataset) -> Self:
        """The splits of a dataset; the manifest of one shard is in memory at a time."""
        return cls({shard: _digest(images, shard) for shard in images.shards})

    @property
    def digest(self) -> str:
        """Names the images and their splits."""
        return digest_of(sorted(self.shards.items()))

    def save(self, folder: Path | UPath) -> None:
        """Write `<folder>/splits.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, dict(self.shards))

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        """What `save` wrote; a CorgiError where there is nothing."""
        if not (folder / FILE).exists():
            raise CorgiError(f"there are no image splits in {folder}", "materialise them again")
        return cls(read_json(folder / FILE))


def _digest(images: Dataset, shard: str) -> str:
    rows = images.rows(shard, "key", "sha256", "split", "source")
    columns = rows["key"], rows["sha256"], rows["split"], sources_of(rows)
    return digest_of(*(list(map(str, column)) for column in columns))
