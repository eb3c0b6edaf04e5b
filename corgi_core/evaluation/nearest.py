"""The training images nearest to an image: what a model may have memorised.

Nearness is the cosine of CLIP image embeddings, averaged over the encoders (1 is the same image to
CLIP). The search is exact, by faiss, with one shard of the embeddings in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset, caption_of
from corgi_core.data.keys import SplitKeys
from corgi_core.data.pixels import square
from corgi_core.data.splits import TRAIN
from corgi_core.encoders.similarity import unit_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.evaluation.held_out import HeldOut

MAX_NEIGHBOURS = 16
COMPARED_AT_ONCE = 2**13  # images, for which the training images are read once


@dataclass(frozen=True)
class Neighbours:
    """The k nearest training images of n images, nearest first.

    Attributes:
        keys: Keys of the training images, str [n, k].
        cosines: float32 [n, k] in [−1, 1].
    """

    keys: NDArray[np.str_]
    cosines: NDArray[np.float32]


@dataclass(frozen=True)
class TrainingImages:
    """The training split of a dataset with its embeddings.

    Attributes:
        images: The gated images.
        embeddings: Their CLIP embeddings, the array "image" [m, d].
    """

    images: Dataset
    embeddings: ArrayStore

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.images.images_of(TRAIN).values())

    def nearest(self, z: Tensor, count: int) -> Neighbours:
        """The `count` training images nearest to each embedding of z [n, d].

        Raises CorgiError as `nearest_numbers` does.
        """
        found, cosines = self.nearest_numbers(z, count)
        _, keys = self._at(found)
        return Neighbours(keys, cosines)

    def nearest_numbers(
        self, z: Tensor, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Numbers and cosines [n, count] of the training images nearest to z [n, d].

        The images are numbered from 0 in the shards' order; `listed` has them by their numbers.

        Raises:
            CorgiError: For a count outside 1 … 16 or above the number of training images, and for
                embeddings of another width.
        """
        from faiss import METRIC_INNER_PRODUCT
        from faiss.contrib.exhaustive_search import knn_ground_truth

        total = self.count
        if not 1 <= count <= min(MAX_NEIGHBOURS, total):
            raise CorgiError(
                f"{count} nearest of {total:,} training images were asked for",
                f"ask for 1 to {min(MAX_NEIGHBOURS, total)}",
            )
        search: Any = knn_ground_truth  # faiss has no types
        sums, found = search(self._directions(z), self._chunks(), count, METRIC_INNER_PRODUCT)
        return found, sums / np.float32(len(self._encoder_dims))

    def listed(self, numbers: NDArray[np.int64]) -> HeldOut:
        """The training images with these numbers [n], without captions."""
        shards, keys = self._at(numbers)
        return HeldOut(tuple(shards.tolist()), tuple(keys.tolist()), ("",) * len(numbers))

    def cosines(
        self, z: Tensor, shards: NDArray[np.str_], keys: NDArray[np.str_]
    ) -> NDArray[np.float32]:
        """Cosines [n] of each embedding of z [n, d] to one training image, by its shard and key."""
        own, found = self._directions(z), np.empty(len(z), np.float32)
        for shard in np.unique(shards).tolist():
            at = np.flatnonzero(shards == shard)
            rows = self.embeddings.first_rows(shard, keys[at])
            there = torch.from_numpy(self.embeddings.mapped(shard, "image")[rows])
            found[at] = (own[at] * self._directions(there)).sum(axis=1)
        return found / np.float32(len(self._encoder_dims))

    def sampled(self, count: int) -> Tensor:
        """At most `count` of the embeddings [m, d], uniformly; the same whenever it is asked."""
        sizes = self.images.images_of(TRAIN)
        total = self.count
        numbers = np.random.default_rng(0).choice(total, min(count, total), replace=False)
        numbers.sort()
        chunks, first = list[NDArray[np.float16]](), 0
        for shard, size in sizes.items():
            keys = self.embeddings.read_shard(shard, "keys")
            rows = np.flatnonzero(self._training.among(shard, keys))
            there = numbers[(numbers >= first) & (numbers < first + size)] - first
            chunks.append(self.embeddings.mapped(shard, "image")[rows[there]])
            first += size
        return torch.from_numpy(np.concatenate(chunks)).float()

    def pictures(self, keys: Iterable[str], size: int) -> Tensor:
        """The images of those keys, framed as they were embedded: float32 [n, 3, size, size]."""
        wanted = list(keys)
        squares = {
            key: square(image, size, self.embeddings.spec["framing"])
            for shard in sorted({shard for shard, _ in self._found(wanted).values()})
            for key, image in self.images.some_images(shard, wanted)
        }
        return torch.from_numpy(np.stack([squares[key] for key in wanted])).float() / 255

    def names(self, keys: Iterable[str]) -> list[str]:
        """The first caption of each image, or its key where it has none."""
        wanted = list(keys)
        found = self._found(wanted)
        return [found[key][1] or key for key in wanted]

    def beside(
        self, pictures: Tensor, neighbours: Neighbours
    ) -> tuple[list[str], dict[str, Tensor]]:
        """Images and their neighbours as rows and columns of `labelled_grid`.

        Args:
            pictures: Generated images [n, 3, s, s] in [0, 1].
            neighbours: Their nearest training images.

        Returns:
            A label for each row, with the neighbours' names and cosines; and the columns, the
            images first, then the neighbours, nearest first.
        """
        keys, count = neighbours.keys.ravel().tolist(), neighbours.keys.shape[1]
        names = np.array(self.names(keys), dtype=object).reshape(-1, count)
        captions = [
            "; ".join(f"{name} ({c:.2f})" for name, c in zip(row, cosines, strict=True))
            for row, cosines in zip(names, neighbours.cosines, strict=True)
        ]
        near = self.pictures(keys, pictures.shape[-1])
        near = near.view(-1, count, *near.shape[1:])
        columns = {f"nearest {rank + 1}": near[:, rank] for rank in range(count)}
        return captions, {"generated": pictures} | columns

    @property
    def _training(self) -> SplitKeys:
        return SplitKeys(self.images, TRAIN)

    @property
    def _encoder_dims(self) -> list[int]:
        return list(self.embeddings.spec["encoder_dims"])

    def _chunks(self) -> Iterator[NDArray[np.float32]]:
        for shard in self.images.images_of(TRAIN):
            keys, z = self.embeddings.read_with_keys(shard, "image")
            yield self._directions(torch.from_numpy(z[self._training.among(shard, keys)]))

    def _at(self, found: NDArray[np.int64]) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
        """Shards and keys of the training images with these numbers, in the order of `_chunks`."""
        sizes = self.images.images_of(TRAIN)
        shards, ends = list(sizes), np.cumsum(list(sizes.values()))
        number = np.searchsorted(ends, found, side="right")
        keys = np.empty(found.shape, dtype=object)
        for shard in np.unique(number):
            there = self.embeddings.read_shard(shards[shard], "keys")
            training = there[self._training.among(shards[shard], there)]
            first = ends[shard] - sizes[shards[shard]]
            keys[number == shard] = training[found[number == shard] - first]
        return np.array(shards)[number], keys.astype(str)

    def _found(self, keys: Iterable[str]) -> dict[str, tuple[str, str | None]]:
        """The shard and the first caption of each key; no more shards are read than are needed."""
        wanted, found = set(keys), dict[str, tuple[str, str | None]]()
        for shard in self.images.shards:
            if len(found) == len(wanted):
                break
            rows = self.images.rows(shard, "key", "captions")
            for key, captions in rows[rows["key"].isin(wanted)].itertuples(index=False):
                found[key] = shard, caption_of(captions)
        return found

    def _directions(self, z: Tensor) -> NDArray[np.float32]:
        return np.ascontiguousarray(unit_per_encoder(z.float().cpu(), self._encoder_dims).numpy())
