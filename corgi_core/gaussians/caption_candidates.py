"""Images without a caption as candidates for one: where they lie among those that have captions.

Of many images a uniform sample is considered, so that memory is bounded. The images that have
captions are read once, in parts, which may be compared anywhere.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.caption_choice import Candidates
from corgi_core.data.dataset import Dataset
from corgi_core.data.keys import TrainingKeys
from corgi_core.data.splits import ranks_of
from corgi_core.data.subsets import HIGHEST, threshold_of
from corgi_core.encoders.similarity import unit_per_encoder
from corgi_core.gaussians.stream import Batches, EmbeddingStream
from corgi_core.mapping import Map, map_here

MOST = 65_536  # images that are considered: 134 MB at a width of 512


def candidates_of(
    images: Dataset, store: ArrayStore, seed: int, mapped: Map = map_here, most: int = MOST
) -> Candidates:
    """The training images that have no caption; there may be none.

    Args:
        images: The dataset.
        store: Its image embeddings.
        seed: Of the sample.
        mapped: Where images with captions are compared; the result is the same.
        most: How many are considered.
    """
    without, having = TrainingKeys(images, captioned=False), TrainingKeys(images, captioned=True)
    dims = tuple(store.spec["encoder_dims"])
    if not without.count:
        nothing = np.empty((0, sum(dims)), np.float32)
        return Candidates(np.empty(0, str), nothing, nothing[:, 0])
    keys, embeddings = _sampled(without, store, seed, most)
    directions = directions_of(embeddings, dims)
    nearest = np.full(len(keys), -1, dtype=np.float32)
    stream = EmbeddingStream.of_keys(store, having, having.counts)
    common = _Comparing(directions, dims)
    with closing(stream.parts(_nearest_in, common, "comparing images", mapped)) as parts:
        for cosines in parts:
            np.maximum(nearest, cosines, out=nearest)
    return Candidates(keys, directions, nearest)


def directions_of(
    embeddings: NDArray[np.float32], encoder_dims: tuple[int, ...]
) -> NDArray[np.float32]:
    """Embeddings [n, d] scaled so that inner products are mean cosines of the encoders."""
    scaled = unit_per_encoder(torch.from_numpy(embeddings), encoder_dims) / len(encoder_dims) ** 0.5
    directions: NDArray[np.float32] = scaled.numpy()
    return directions


def nearest_of(directions: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of each direction [n, d] to the nearest of the others [m, d], m ≥ 1: [n]."""
    import faiss

    index = faiss.IndexFlatIP(others.shape[1])
    index.add(others)
    cosines: NDArray[np.float32] = index.search(directions, 1)[0][:, 0]
    return cosines


def _sampled(
    without: TrainingKeys, store: ArrayStore, seed: int, most: int
) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
    """Keys [n] and embeddings [n, d] of at most `most` images, those with the lowest ranks."""
    shards = list(without.counts)
    threshold = HIGHEST
    if most < without.count:
        threshold = threshold_of(lambda: map(without.keys, shards), most, seed)
    highest = bytes.fromhex(threshold)
    keys, embeddings = list[NDArray[np.str_]](), list[NDArray[np.float32]]()
    for shard in shards:
        there = without.keys(shard)
        there = there[ranks_of(there, seed) <= highest]
        rows = store.mapped(shard, "image")[store.first_rows(shard, there)]
        keys.append(there)
        embeddings.append(rows.astype(np.float32))
    return np.concatenate(keys), np.concatenate(embeddings)


@dataclass(frozen=True)
class _Comparing:
    """What the images that have captions are compared with."""

    directions: NDArray[np.float32]
    encoder_dims: tuple[int, ...]


def _nearest_in(comparing: _Comparing, _first: int, batches: Batches) -> NDArray[np.float32]:
    """Cosine of each candidate to the nearest of a part's images [n]."""
    nearest = np.full(len(comparing.directions), -1, dtype=np.float32)
    for batch in batches:
        others = directions_of(batch, comparing.encoder_dims)
        np.maximum(nearest, nearest_of(comparing.directions, others), out=nearest)
    return nearest
