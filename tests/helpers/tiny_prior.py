"""A real prior's training, of any size, on made embeddings of pictures that have captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from corgi_core.config import PriorSettings, TrainingSettings
from corgi_core.data.arrays import Arrays, ArrayStore, compute_missing
from corgi_core.data.keys import ListedKeys
from corgi_core.data.ragged import RaggedArray
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.prior.task import PriorTask

TRAINING = TrainingSettings(
    steps=12, batch_size=8, learning_rate=3e-3, warmup_steps=3, ema_decay=0.9,
    checkpoint_every=4, evaluate_every=6, precision="fp32",
)  # fmt: skip
SETTINGS = PriorSettings(
    width=32, layers=2, heads=4, noise_samples=2, cond_dropout=0.1, p2_gamma=1.0, guidance=1.0,
    num_steps=4, training=TRAINING,
)  # fmt: skip


@dataclass(frozen=True)
class OneShard:
    """As much of a dataset as arrays need: one shard, unless more are named."""

    shards: tuple[str, ...] = ("00000",)

    def shard_digest(self, shard: str) -> str:
        return shard

    def images_in(self, shard: str) -> int:
        return 1


def made_prior(
    folder: Path,
    settings: PriorSettings = SETTINGS,
    pictures: int = 60,
    width: int = 16,
    text_width: int = 12,
    text_tokens: int = 6,
    shards: int = 1,
) -> PriorTask:
    """The task, its arrays written under `folder`; a picture's embedding follows its caption's."""
    random = np.random.default_rng(0)
    keys = np.array([f"{number:05d}" for number in range(pictures)])
    lengths = random.integers(1, text_tokens + 1, pictures)
    text = random.standard_normal((pictures, width))
    image = np.tanh(text) + 0.3 * random.standard_normal((pictures, width)) + 0.5
    vectors = random.standard_normal((pictures, text_tokens, text_width)).astype(np.float16)
    mask = np.arange(text_tokens) < lengths[:, None]
    tokens = RaggedArray.of_lengths(vectors[mask], lengths)

    def store(name: str, about: dict[str, int], arrays: Arrays) -> ArrayStore:
        spec = {"encoder": "made", "encoder_dims": [width], "width": width} | about
        names = tuple(f"{number:05d}" for number in range(shards))

        def part(shard: str) -> Arrays:
            rows = np.array_split(np.arange(pictures), shards)[names.index(shard)]
            return {
                each: values.take(rows) if isinstance(values, RaggedArray) else values[rows]
                for each, values in arrays.items()
            }

        return compute_missing(folder / name, OneShard(names), spec, part, name)  # type: ignore[arg-type]

    texts: Arrays = {"tokens": tokens, "text": text.astype(np.float16)}
    about = {"text_width": text_width, "text_tokens": text_tokens}
    held_out = pictures // 6
    return PriorTask(
        settings=settings,
        images=store("images", {}, {"keys": keys, "image": image.astype(np.float16)}),
        texts=store("texts", about, {"keys": keys, **texts}),
        captioned=ListedKeys(tuple(keys[held_out:].tolist())),
        validation_keys=ListedKeys(tuple(keys[:held_out].tolist())),
        bank=GaussianBank(
            torch.from_numpy(image[:2].astype(np.float32)), torch.full((2, width), 0.5),
            torch.full((2,), pictures), encoder_dims=(width,), kappa=1.0,
        ),
    )  # fmt: skip
