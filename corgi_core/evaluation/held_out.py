"""The captions that an evaluation is of, and the chunks in which they are evaluated.

Every held-out image counts once, with the caption that stands for it (`caption_of`). Of more images
than are wanted, evenly spaced ones are taken. Memory holds the keys and captions of those that are
evaluated, and one shard's manifest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset, caption_of, sources_of
from corgi_core.data.ragged import RaggedArray
from corgi_core.data.splits import TEST
from corgi_core.encoders.caption_tokens import CaptionTokens
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of
from corgi_core.prior.task import Captions
from corgi_core.streaming.squares import Squares

if TYPE_CHECKING:
    import pandas as pd


class Case(Protocol):
    """One of the things that are measured on the same captions, such as a prior."""

    @property
    def digest(self) -> str:
        """Names all that its results depend on, beside the captions."""


AnyCase = TypeVar("AnyCase", bound=Case, covariant=True)


def evenly_spaced(total: int, wanted: int) -> NDArray[np.int64]:
    """Rows 0 … total − 1, as many as wanted or as there are, the first and the last included."""
    return np.unique(np.linspace(0, total - 1, min(total, wanted)).round().astype(np.int64))


@dataclass(frozen=True)
class HeldOut:
    """Some captioned images, in the dataset's order, one caption each.

    Attributes:
        shards: The dataset's shards that hold the images [n].
        keys: The images' keys [n].
        captions: Their captions [n].
    """

    shards: tuple[str, ...]
    keys: tuple[str, ...]
    captions: tuple[str, ...]

    @classmethod
    def of(
        cls,
        images: Dataset,
        count: int,
        source: str | None = None,
        left_out: Collection[str] = (),
        split: str = TEST,
    ) -> HeldOut:
        """Evenly spaced images with captions of a split, among those that count.

        So there are `count` of them wherever so many count, whatever is left out. The manifests of
        all shards with such images are read where some are, else those of the chosen images.

        Args:
            images: The dataset.
            count: How many, at most.
            source: Only images of this source.
            left_out: Keys of images that do not count.
            split: The test split for what is reported, the validation split for choices.

        Raises:
            CorgiError: there are fewer than two.
        """
        among = [
            sum(
                each.captioned
                for each in images.records[shard].counts
                if each.split == split and source in (None, *each.source.split()[:1])
            )
            for shard in images.shards
        ]
        total = sum(among)
        if total < 2:
            raise CorgiError(
                f"{total} {split} images with captions are too few to evaluate on",
                f"ingest more captioned images, or raise {split}_fraction",
            )

        def counted(shard: str) -> pd.DataFrame:
            """The rows of a shard's images that count."""
            rows = images.rows(shard, "key", "captions", "split", "source")
            rows = rows[(rows["split"] == split) & rows["captions"].notna()]
            if source is not None:
                rows = rows[sources_of(rows) == source]
            return rows[~rows["key"].isin(list(left_out))]

        if left_out:
            pairs = zip(images.shards, among, strict=True)
            among = [len(counted(shard)) if there else 0 for shard, there in pairs]
        if sum(among) < 2:
            raise CorgiError(
                f"all but {sum(among)} of {total} {split} images with captions are left out",
                "evaluate on images that are not in the training data, or raise data.twin_cosine, "
                "from which on two images are near twins",
            )
        chosen, ends = evenly_spaced(sum(among), max(2, count)), np.cumsum(among)
        in_shard = np.searchsorted(ends, chosen, side="right")
        shards: list[str] = []
        keys: list[str] = []
        captions: list[str] = []
        for number in np.unique(in_shard):
            name = images.shards[number]
            at = chosen[in_shard == number] - (ends[number] - among[number])
            wanted = counted(name).iloc[at]
            shards += [name] * len(wanted)
            keys += wanted["key"].tolist()
            captions += [caption_of(texts) or "" for texts in wanted["captions"]]
        return cls(tuple(shards), tuple(keys), tuple(captions))

    def spaced(self, count: int) -> HeldOut:
        """At most `count` of them, evenly spaced."""
        return self.taken(evenly_spaced(len(self), count))

    def taken(self, rows: NDArray[np.int64]) -> HeldOut:
        """The given rows [m], in that order."""
        chosen = rows.tolist()
        shards, keys, captions = (
            tuple(column[i] for i in chosen) for column in (self.shards, self.keys, self.captions)
        )
        return HeldOut(shards, keys, captions)

    @cached_property
    def digest(self) -> str:
        """Names the images and captions, in their order."""
        return digest_of(self.shards, self.keys, self.captions)

    def read(
        self,
        rows: NDArray[np.int64],
        images: ArrayStore,
        texts: ArrayStore,
        device: torch.device | str = "cpu",
    ) -> Captions:
        """The embeddings and tokens of the given rows [b], from the shards that hold them.

        Tokens that are not stored are made on `device`.
        """
        tokens = CaptionTokens(texts)
        return Captions(
            tokens=tokens.ragged(self.gather_ragged(rows, texts, tokens.array), device),
            text=torch.from_numpy(self.gather(rows, texts, "text").astype(np.float32)),
            image=self.image_embeddings(rows, images),
        )

    def image_embeddings(self, rows: NDArray[np.int64], images: ArrayStore) -> Tensor:
        """The images' embeddings, float32 [b, d]."""
        return torch.from_numpy(self.gather(rows, images, "image").astype(np.float32))

    def gather(self, rows: NDArray[np.int64], store: ArrayStore, name: str) -> np.ndarray:
        """The given rows [b], b ≥ 1, of an array, [b, …]; of an image's several rows, the first.

        Raises CorgiError where the store has no row for an image.
        """
        gathered: np.ndarray | None = None
        for shard, at, there in self._found(rows, store):
            array = store.mapped(shard, name)[there]
            if gathered is None:
                gathered = np.empty((len(rows), *array.shape[1:]), array.dtype)
            gathered[at] = array
        assert gathered is not None, "no rows were asked for"
        return gathered

    def gather_squares(self, rows: NDArray[np.int64], squares: Squares, size: int) -> Tensor:
        """The given rows [b] as images uint8 [b, 3, size, size]."""
        found = self._found(rows, squares.store)
        return squares.gather(len(rows), ((shard, there, at) for shard, at, there in found), size)

    def gather_ragged(self, rows: NDArray[np.int64], store: ArrayStore, name: str) -> RaggedArray:
        """The given rows [b] of a ragged array, as `gather` finds them."""
        found = [
            (store.mapped_ragged(shard, name), there, at)
            for shard, at, there in self._found(rows, store)
        ]
        return RaggedArray.gathered(len(rows), found)

    def _found(
        self, rows: NDArray[np.int64], store: ArrayStore
    ) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
        """Each shard with some of the rows: their positions among `rows`, and where they are."""
        shards = np.array([self.shards[row] for row in rows])
        for shard in np.unique(shards).tolist():
            at = np.flatnonzero(shards == shard)
            wanted = np.array([self.keys[row] for row in rows[at]])
            yield shard, at, store.first_rows(shard, wanted)

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Chunks(Generic[AnyCase]):
    """The shards of an evaluation: for every case the captions, chunk by chunk.

    A shard is named by its case's digest, so that results stay when other cases come or go.

    Attributes:
        captions: What is evaluated.
        cases: The cases.
        size: Captions a chunk.
        displayed: The rows of captions that grids show. They are a chunk of their own, the first.
    """

    captions: HeldOut
    cases: tuple[AnyCase, ...]
    size: int
    displayed: tuple[int, ...] = ()

    @cached_property
    def shards(self) -> list[str]:
        """The shards' names, case by case and in the captions' order."""
        names = (name for case in self.cases for name in self.shards_of(case))
        return list(dict.fromkeys(names))

    def shards_of(self, case: Case) -> list[str]:
        """The names of one case's shards, in the captions' order, the displayed ones first."""
        return [f"{case.digest}-{number:05d}" for number in range(len(self._rows))]

    def part(self, shard: str) -> tuple[AnyCase, NDArray[np.int64]]:
        """The case of a shard, and the rows of its captions."""
        digest, _, number = shard.rpartition("-")
        return self._by_digest[digest], self._rows[int(number)]

    def is_displayed(self, shard: str) -> bool:
        """Whether grids show the captions of a shard."""
        return bool(self.displayed) and int(shard.rpartition("-")[2]) == 0

    def keys(self, shard: str) -> NDArray[np.str_]:
        """The keys of a shard's images [n]."""
        _, rows = self.part(shard)
        return np.array([self.captions.keys[row] for row in rows])

    def shard_digest(self, shard: str) -> str:
        """Names the case and the captions of a shard."""
        case, rows = self.part(shard)
        return digest_of(case.digest, [(self.captions.keys[row], int(row)) for row in rows])

    def images_in(self, shard: str) -> int:
        """How many captions a shard has."""
        return len(self.part(shard)[1])

    @cached_property
    def _by_digest(self) -> dict[str, AnyCase]:
        return {case.digest: case for case in self.cases}

    @cached_property
    def _rows(self) -> list[NDArray[np.int64]]:
        displayed = np.array(self.displayed, dtype=np.int64)
        others = np.setdiff1d(np.arange(len(self.captions)), displayed)
        chunks = [others[first : first + self.size] for first in range(0, len(others), self.size)]
        return [displayed, *chunks] if len(displayed) else chunks
