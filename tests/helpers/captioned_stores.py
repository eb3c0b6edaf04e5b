"""Image embeddings and captions on disk, in shards, with the same features by a loop over keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.ragged import RaggedArray
from corgi_core.data.shards import Sample

DIMS, TOKEN = (4, 8), 3
SPEC = {"encoder": "made", "encoder_dims": list(DIMS), "names": ["a", "b"]}


@dataclass(frozen=True)
class Made:
    """Images with two captions each, in shards, and their features and embeddings by split."""

    dataset: Dataset
    images: ArrayStore
    texts: ArrayStore

    def of(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """φ [n, p] and z [n, d] of a split's captions, by a loop over keys."""
        keys = set(self.dataset.keys(split))
        image = dict(zip(self.images.keys.tolist(), self.images.read("image"), strict=True))
        tokens, text = self.texts.read_ragged("tokens"), self.texts.read("text")
        rows = [row for row, key in enumerate(self.texts.keys.tolist()) if key in keys]
        means = [tokens.values[tokens.offsets[r] : tokens.offsets[r + 1]].mean(0) for r in rows]
        z = np.stack([image[self.texts.keys[row]] for row in rows])
        return np.concatenate([text[rows], np.stack(means)], axis=1), z


def captioned_stores(folder: Path) -> Made:
    """210 images, of which 150 are for training; embeddings follow the captions by a linear map."""
    random = np.random.default_rng(0)
    splits = ["train"] * 5 + ["validation"] + ["test"]
    samples = [
        Sample(f"{n:03}", b"", ["one", "two"], splits[n % 7], "made", f"{n}") for n in range(210)
    ]
    dataset = write_dataset(folder / "images", samples, shard_size=60)
    latent = random.normal(size=(210, 5))
    to_text, to_image, to_token = (random.normal(size=(5, n)) for n in (12, 12, TOKEN))
    image = (latent @ to_image + 3 + 0.5 * random.normal(size=(210, 12))).astype(np.float32)

    def numbers(shard: str) -> tuple[np.ndarray, np.ndarray]:
        keys = dataset.rows(shard, "key")["key"].to_numpy(dtype=str)
        return keys, keys.astype(int)

    def images(shard: str) -> dict[str, np.ndarray]:
        keys, at = numbers(shard)
        return {"keys": keys, "image": image[at]}

    def texts(shard: str) -> dict[str, np.ndarray | RaggedArray]:
        keys, at = numbers(shard)
        noise = np.random.default_rng(int(shard))
        own = np.repeat(latent[at], 2, axis=0)
        lengths = noise.integers(1, 6, len(own))
        values = np.repeat(own @ to_token, lengths, axis=0)
        values = (values + noise.normal(size=values.shape)).astype(np.float32)
        text = own @ to_text + noise.normal(size=(len(own), 12)) - 2
        return {"keys": np.repeat(keys, 2), "text": text.astype(np.float32),
                "tokens": RaggedArray.of_lengths(values, lengths)}  # fmt: skip

    return Made(
        dataset,
        compute_missing(folder / "image", dataset, SPEC, images, "images"),
        compute_missing(folder / "text", dataset, SPEC, texts, "texts"),
    )
