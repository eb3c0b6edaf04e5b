"""Images of another dataset that a model has been trained on: copies, and what CLIP takes for one.

A score is zero-shot only on images that are not in the training data. They are looked for by
perceptual hash, which finds copies that were scaled or compressed again, and by the cosine to the
nearest training image, which finds crops and retouched copies too. Among many images some hashes
agree by chance, so the embeddings of a copy by hash must be alike too, if less so. Both read the
training data a shard at a time, and once for every 8,192 evaluated images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from upath import UPath

from corgi_core.config import ZeroShotSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.splits import TEST, TRAIN
from corgi_core.errors import CorgiError
from corgi_core.evaluation.nearest import COMPARED_AT_ONCE, TrainingImages
from corgi_core.evaluation.perceptual import nearest_hash
from corgi_core.io.files import digest_of, read_json, write_json
from corgi_core.io.folders import atomic_folder, published
from corgi_core.progress import track

OVERLAP = "overlap.json"
PAIRS_AT_ONCE = 2**24  # of hashes that are compared


@dataclass(frozen=True)
class Overlap:
    """Which of the images that are to be evaluated are in the training data.

    Attributes:
        images: How many were looked at.
        pairs: A row for each that is: key; by_hash, and the bits, training_key and hash_cosine of
            the nearest hash; by_embedding, and the cosine and nearest_key of the nearest embedding.
    """

    images: int
    pairs: pd.DataFrame

    @property
    def keys(self) -> frozenset[str]:
        """The images' keys."""
        return frozenset(self.pairs["key"])

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of images: looked at, overlapping, by hash and by embedding."""
        return {
            "images": self.images,
            "overlapping": len(self.pairs),
            "by_hash": int(self.pairs["by_hash"].sum()),
            "by_embedding": int(self.pairs["by_embedding"].sum()),
        }

    def described(self, dataset: str, evaluated: Dataset, training: Dataset) -> dict[str, Any]:
        """What a zero-shot report says of its data: names, data versions, numbers of images."""
        return {
            "dataset": dataset,
            "data_version": evaluated.digest,
            "training_data_version": training.digest,
            **self.counts,
        }

    @property
    def digest(self) -> str:
        """Of the images and pairs."""
        return digest_of(self.images, self.pairs.to_dict("records"))

    def save(self, folder: Path | UPath) -> None:
        """Write overlap.json, whole or not at all."""
        with atomic_folder(folder) as temporary:
            content = {"images": self.images, "pairs": self.pairs.to_dict("records")}
            write_json(temporary / OVERLAP, content)

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        """Read what `save` wrote; CorgiError where there is none."""
        folder = published(folder)
        if not (folder / OVERLAP).exists():
            raise CorgiError(f"{folder} holds no overlap", "materialise `zero_shot_overlap`")
        content: dict[str, Any] = read_json(folder / OVERLAP)
        return cls(content["images"], pd.DataFrame(content["pairs"], columns=COLUMNS))


COLUMNS = [
    "key", "by_hash", "bits", "training_key", "hash_cosine", "by_embedding", "cosine",
    "nearest_key",
]  # fmt: skip


def overlap_of(
    evaluated: Dataset,
    embeddings: ArrayStore,
    hashes: ArrayStore,
    training: TrainingImages,
    training_hashes: ArrayStore,
    settings: ZeroShotSettings,
) -> Overlap:
    """The held-out images of a dataset that are among the training images of another.

    Args:
        evaluated: The dataset that is evaluated.
        embeddings: Its image embeddings, by the encoders of the training images'.
        hashes: Its perceptual hashes.
        training: The training images.
        training_hashes: Their perceptual hashes.
        settings: Up to how many bits, and from which cosines on, two images are one.

    Raises:
        CorgiError: the datasets were embedded by different encoders.
    """
    if embeddings.spec["encoder"] != training.embeddings.spec["encoder"]:
        raise CorgiError(
            "the datasets of training and of evaluation were embedded by different CLIP encoders",
            "materialise zero_shot_image_embeddings again",
        )
    found = [
        _nearest(keys, own, z, training, training_hashes, settings)
        for keys, own, z in _held_out(evaluated, embeddings, hashes)
    ]
    every = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=COLUMNS)
    overlapping = every[every["by_hash"].astype(bool) | every["by_embedding"].astype(bool)]
    return Overlap(len(every), overlapping.reset_index(drop=True))


def _held_out(
    evaluated: Dataset, embeddings: ArrayStore, hashes: ArrayStore
) -> Iterator[tuple[NDArray[np.str_], NDArray[np.uint64], NDArray[np.float16]]]:
    """Keys [n], hashes [n] and embeddings [n, d] of held-out images, some 8,192 at a time.

    The training images are read once for each of these parts: once, where there are fewer.
    """
    parts: list[tuple[NDArray[Any], ...]] = []
    for number, shard in enumerate(evaluated.shards, start=1):
        rows = evaluated.rows(shard, "key", "split")
        keys = rows.loc[rows["split"] == TEST, "key"].to_numpy(str)
        if len(keys):
            own, z = (
                _of_keys(hashes, shard, "hash", keys),
                _of_keys(embeddings, shard, "image", keys),
            )
            parts.append((keys, own, z))
        last = number == len(evaluated.shards)
        if parts and (last or sum(len(keys) for keys, *_ in parts) >= COMPARED_AT_ONCE):
            keys, own, z = (np.concatenate(column) for column in zip(*parts, strict=True))
            yield keys, own, z
            parts = []


def _nearest(
    keys: NDArray[np.str_],
    hashes: NDArray[np.uint64],
    z: NDArray[np.float16],
    training: TrainingImages,
    training_hashes: ArrayStore,
    settings: ZeroShotSettings,
) -> pd.DataFrame:
    """The row of `Overlap.pairs` of each of some held-out images, whether it overlaps or not."""
    own = torch.from_numpy(z.astype(np.float32))
    near = training.nearest(own, 1)
    by_hash = nearest_hashes(hashes, own, training, training_hashes)
    return pd.DataFrame(
        {
            "key": keys, "by_hash": by_hash.within(settings.bits, settings.hash_cosine),
            "bits": by_hash.bits, "training_key": by_hash.keys,
            "hash_cosine": by_hash.cosines.astype(float).round(6),
            "by_embedding": near.cosines[:, 0] >= settings.cosine,
            "cosine": near.cosines[:, 0].astype(float).round(6),
            "nearest_key": near.keys[:, 0],
        }
    )  # fmt: skip


class NearestHashes(NamedTuple):
    """The training image whose perceptual hash differs least, for each of n images.

    Attributes:
        bits: That differ, of 64 [n].
        cosines: Of the two images' embeddings, averaged over the encoders [n].
        keys: Of the training images [n]; None where nothing names them.
    """

    bits: NDArray[np.int64]
    cosines: NDArray[np.float32]
    keys: NDArray[np.str_] | None = None

    def within(self, bits: int, cosine: float) -> NDArray[np.bool_]:
        """Which [n] differ in so many bits at most, and have at least that cosine."""
        near: NDArray[np.bool_] = (self.bits <= bits) & (self.cosines >= cosine)
        return near


def nearest_hashes(
    hashes: NDArray[np.uint64], z: Tensor, training: TrainingImages, store: ArrayStore
) -> NearestHashes:
    """The training images with the nearest hashes.

    Args:
        hashes: Of the images that are looked for [n].
        z: Their embeddings [n, d].
        training: The training images.
        store: Their hashes.
    """
    images, best = training.images, np.full(len(hashes), 65, np.int64)
    shards, keys = (np.full(len(hashes), "", dtype=object) for _ in range(2))
    what = "looking for evaluated images among the training images"
    for shard in track(images.images_of(TRAIN), what):
        for some_keys, among in _training_hashes(images, store, shard, len(hashes)):
            nearest, bits = nearest_hash(hashes, among)
            better = bits < best
            best[better], keys[better] = bits[better], some_keys[nearest[better]]
            shards[better] = shard
    named = keys.astype(str)
    return NearestHashes(best, training.cosines(z, shards.astype(str), named), named)


def _training_hashes(
    images: Dataset, store: ArrayStore, shard: str, count: int
) -> Iterator[tuple[NDArray[np.str_], NDArray[np.uint64]]]:
    """Keys and hashes of a shard's training images, as many at once as memory is planned for."""
    rows = images.rows(shard, "key", "split")
    keys = rows.loc[rows["split"] == TRAIN, "key"].to_numpy(str)
    size = max(1, PAIRS_AT_ONCE // max(1, count))
    if len(keys):
        hashes = _of_keys(store, shard, "hash", keys)
        for first in range(0, len(keys), size):
            yield keys[first : first + size], hashes[first : first + size]


def _of_keys(store: ArrayStore, shard: str, name: str, keys: NDArray[np.str_]) -> NDArray[Any]:
    """The rows of an array of one shard that belong to keys of that shard, in their order."""
    found: NDArray[Any] = store.mapped(shard, name)[store.first_rows(shard, keys)]
    return found
