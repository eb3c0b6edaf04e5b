"""Caption subsets: the training images whose captions are used; the rest is image-only data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from corgi_core.data.dataset import sources_of
from corgi_core.data.parquet import read_arrow
from corgi_core.data.splits import rank_of
from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file, digest_of


@dataclass(frozen=True)
class CaptionSubset:
    """The keys, sorted, of the training images whose captions may be used."""

    keys: np.ndarray  # of str
    fraction: float  # of all captioned training images, in (0, 1]
    seed: int

    @cached_property
    def digest(self) -> str:
        """Names the content: keys, fraction and seed."""
        return digest_of(self.keys.tolist(), self.fraction, self.seed)

    def among(self, shard: str, keys: np.ndarray) -> np.ndarray:
        """Which of the keys [n] of that shard are in the subset: [n] of bool."""
        return np.isin(keys, self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def save(self, folder: Path | UPath) -> None:
        """Write `<folder>/captions.parquet`."""
        table = pa.table({"key": pa.array(self.keys.tolist(), pa.string())})
        about = {"fraction": repr(self.fraction), "seed": str(self.seed)}
        with atomic_file(folder / "captions.parquet") as temporary, temporary.open("wb") as file:
            pq.write_table(table.replace_schema_metadata(about), file)

    @classmethod
    def load(cls, folder: Path | UPath) -> CaptionSubset:
        """What `save` wrote to `folder`; a CorgiError where there is none."""
        path = folder / "captions.parquet"
        if not path.exists():
            raise CorgiError(f"there is no caption subset in {folder}", "materialise it again")
        with path.open("rb") as file:
            table = read_arrow(file)
        about = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
        keys = np.array(table["key"].to_pylist(), dtype=str)
        return cls(keys, float(about["fraction"]), int(about["seed"]))


def caption_subset(manifest: pd.DataFrame, fraction: float, seed: int) -> CaptionSubset:
    """The first ⌈fraction · n⌉ of n captioned training images, ranked by a hash of seed and key.

    So a smaller subset lies within every larger one of the same seed, and shards do not matter.
    """
    if not 0 < fraction <= 1:
        raise CorgiError(f"a caption subset of {fraction} is no share", "choose one in (0, 1]")
    captioned = manifest[(manifest["split"] == "train") & manifest["captions"].notna()]["key"]
    count = math.ceil(round(fraction * len(captioned), 9))  # 10 % of 70 is 7, not 8
    ranked = sorted(captioned, key=lambda key: rank_of(key, seed))
    return CaptionSubset(np.array(sorted(ranked[:count]), dtype=str), fraction, seed)


def captions_of_other_sources(manifest: pd.DataFrame, source: str, seed: int) -> CaptionSubset:
    """All captioned training images but those of one source, which is trained without captions.

    Raises CorgiError where no image has that source, or no other source has captions.
    """
    captioned = manifest[(manifest["split"] == "train") & manifest["captions"].notna()]
    known = set(sources_of(manifest))
    if source not in known:
        raise CorgiError(
            f"no image has the source {source!r}",
            f"name one of the data's own: {', '.join(sorted(known))}",
        )
    others = captioned[sources_of(captioned) != source]["key"]
    if others.empty:
        raise CorgiError(
            f"there are no captions but those of {source}, which are not to be used",
            "ingest captioned images of another source too, or take a prior from other data "
            "(`corgi generate --prior FOLDER`)",
        )
    keys = np.array(sorted(others), dtype=str)
    return CaptionSubset(keys, len(keys) / len(captioned), seed)
