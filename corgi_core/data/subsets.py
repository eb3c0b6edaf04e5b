"""Caption subsets: the training images whose captions are used; the rest is image-only data.

A subset is a rule about a key's hash, so it is as small for a billion images as for ten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from corgi_core.data.dataset import Dataset, sources_of
from corgi_core.data.splits import TRAIN, ranks_of
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of, read_json, write_json

FILE = "captions.json"
FORMAT = 2  # raised when the file changes; before 2 it was a table of keys, captions.parquet
HIGHEST = "f" * 64  # a rank that none exceeds
_BINS = 2**16  # of ranks, by their first two bytes


@dataclass(frozen=True)
class CaptionSubset:
    """A rule: the captioned training images whose rank is at most `threshold`.

    Attributes:
        fraction: Of all captioned training images, in (0, 1].
        seed: Of the ranks, which are `rank_of` a key.
        threshold: The highest rank in the subset, in hexadecimal; `HIGHEST` where all are in it.
        count: How many images are in it.
        without: A source whose images are not in it, if any.
    """

    fraction: float
    seed: int
    threshold: str
    count: int
    without: str | None = None

    @property
    def digest(self) -> str:
        """Names the rule."""
        return digest_of(asdict(self))

    def of(self, images: Dataset) -> CaptionedKeys:
        """The images of the dataset that the rule was made for which are in the subset."""
        return CaptionedKeys(images, self)

    def __len__(self) -> int:
        return self.count

    def save(self, folder: Path | UPath) -> None:
        """Write `<folder>/captions.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, folder: Path | UPath) -> CaptionSubset:
        """What `save` wrote to `folder`; a CorgiError where there is none, or an older one."""
        if not (folder / FILE).exists():
            if (folder / "captions.parquet").exists():
                raise CorgiError(
                    f"the caption subset in {folder} was written by an older version of Corgi: it "
                    "is a table of keys",
                    "materialise caption_subset again",
                )
            raise CorgiError(f"there is no caption subset in {folder}", "materialise it again")
        saved = read_json(folder / FILE)
        if (found := saved.pop("format", None)) != FORMAT:
            raise CorgiError(
                f"the caption subset in {folder} was written by another version of Corgi "
                f"(format {found}, this version reads {FORMAT})",
                "materialise caption_subset again, or use the version that wrote it",
            )
        return cls(**saved)


@dataclass(frozen=True)
class CaptionedKeys:
    """The images of a caption subset (a `KeySet`)."""

    images: Dataset
    subset: CaptionSubset

    @property
    def digest(self) -> str:
        """Names the dataset's content and the rule."""
        return digest_of(self.images.digest, self.subset.digest)

    def among(self, shard: str, keys: NDArray[np.str_]) -> NDArray[np.bool_]:
        """Which of the keys [n] of that shard are in the subset."""
        chosen = _captioned(self.images, shard, self.subset.without)
        if self.subset.threshold != HIGHEST:
            highest = bytes.fromhex(self.subset.threshold)
            chosen = chosen[ranks_of(chosen, self.subset.seed) <= highest]
        contained = set(chosen.tolist()).__contains__  # np.isin would sort the keys
        return np.fromiter(map(contained, keys.tolist()), dtype=bool, count=len(keys))


def caption_subset(images: Dataset, fraction: float, seed: int) -> CaptionSubset:
    """The first ⌈fraction · n⌉ of n captioned training images, ranked by a hash of seed and key.

    So a smaller subset lies within every larger one of the same seed, and shards do not matter.
    The keys of one shard are in memory at a time.

    Raises:
        CorgiError: the fraction is not in (0, 1], or no training image has a caption.
    """
    if not 0 < fraction <= 1:
        raise CorgiError(f"a caption subset of {fraction} is no share", "choose one in (0, 1]")
    captioned = _count(images)
    if not captioned:
        raise CorgiError(
            "no training image has a caption, so there is no caption subset",
            "ingest captions too, or materialise decoders alone, which need none",
        )
    count = math.ceil(round(fraction * captioned, 9))  # 10 % of 70 is 7, not 8
    if count == captioned:
        return CaptionSubset(fraction, seed, HIGHEST, count)

    def keys() -> Iterable[NDArray[np.str_]]:
        return (_captioned(images, shard) for shard in images.shards)

    return CaptionSubset(fraction, seed, threshold_of(keys, count, seed), count)


def threshold_of(keys: Callable[[], Iterable[NDArray[np.str_]]], count: int, seed: int) -> str:
    """The `count`-th lowest rank of all keys, in hexadecimal.

    Two passes: ranks are counted by their first two bytes; then those that begin as the wanted one
    does are sorted, one in 65,536.

    Args:
        keys: Yields the keys, some at a time [n]; called for each pass.
        count: From 1 to the number of keys.
        seed: Of the ranks.
    """
    counts = np.zeros(_BINS, np.int64)
    for some in keys():
        counts += np.bincount(_first_bytes(ranks_of(some, seed)), minlength=_BINS)
    reached = np.cumsum(counts)
    wanted = int(np.searchsorted(reached, count))
    lower = int(reached[wanted] - counts[wanted])
    every = (ranks_of(some, seed) for some in keys())
    near = [ranks[_first_bytes(ranks) == wanted] for ranks in every]
    rank: bytes = np.sort(np.concatenate(near))[count - lower - 1]
    return rank.ljust(32, b"\0").hex()  # numpy leaves out zeros at the end


def captions_of_other_sources(images: Dataset, source: str, seed: int) -> CaptionSubset:
    """All captioned training images but those of one source, which is trained without captions.

    Raises:
        CorgiError: no image has that source, or no other source has captions.
    """
    known = set(sources_of(images.counts))
    if source not in known:
        raise CorgiError(
            f"no image has the source {source!r}",
            f"name one of the data's own: {', '.join(sorted(known))}",
        )
    if not (count := _count(images, without=source)):
        raise CorgiError(
            f"there are no captions but those of {source}, which are not to be used",
            "ingest captioned images of another source too, or take a prior from other data "
            "(`corgi generate --prior FOLDER`)",
        )
    return CaptionSubset(count / _count(images), seed, HIGHEST, count, source)


def _count(images: Dataset, without: str | None = None) -> int:
    """How many captioned training images there are, by the shards' records."""
    counts = images.counts
    chosen = counts["split"] == TRAIN
    if without is not None:
        chosen &= sources_of(counts) != without
    return int(counts.loc[chosen, "captioned"].sum())


def _captioned(images: Dataset, shard: str, without: str | None = None) -> NDArray[np.str_]:
    """The keys of a shard's training images that have captions, but for those of a source."""
    rows = images.rows(shard, "key", "split", "source")
    chosen = (rows["split"] == TRAIN) & images.captioned(shard)
    if without is not None:
        chosen &= sources_of(rows) != without
    return rows.loc[chosen, "key"].to_numpy(dtype=str)


def _first_bytes(ranks: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """The number in the first two bytes of each rank [n]."""
    pairs = np.frombuffer(ranks.tobytes(), dtype=">u2").reshape(-1, 16)
    return pairs[:, 0].astype(np.int64)
