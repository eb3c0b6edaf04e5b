"""Image embeddings whose captions can be bought, and text towers that have read none of those.

Some images of a Parquet table of embeddings and captions, as `corgi ingest` reads them, stand for
what CLIP was trained on: a text tower is fitted to them alone. Of the others some are held out, and
the rest is the pool: one caption an image, hidden until it is bought.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from corgi_core.config import Preset
from corgi_core.data.arrays import Arrays, ArrayStore, compute_missing
from corgi_core.data.formats.conventions import caption_column_of
from corgi_core.data.ingest import ingest
from corgi_core.data.ragged import RaggedArray
from corgi_core.data.splits import TEST, TRAIN, VALIDATION, ranks_of
from corgi_core.encoders.embed import PrecomputedEmbedding
from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.encoders.train_text_tower import TextHeads, TextTowerTask
from corgi_core.training.loop import train

Keys = tuple[str, ...]
POOL = "pool"


@dataclass(frozen=True)
class Data:
    """The stores, and whose captions are for what.

    Attributes:
        images: The image embeddings of all.
        texts: The captions' embeddings, and one token each: the mean of the text encoder's, so that
            many trainings take minutes.
        pool: Images whose caption can be bought.
        validation: Held-out images by which choices are made: penalties, rules.
        test: Held-out images that are reported.
    """

    images: ArrayStore
    texts: ArrayStore
    pool: Keys
    validation: Keys
    test: Keys


def data_of(table: Path, preset: Preset, sizes: dict[str, int], folder: Path) -> Data:
    """Embed a table's captions; what is in `folder` already is not computed again.

    Args:
        table: A Parquet table with a key, captions and one column of float lists.
        preset: Of the text encoder and the text tower's training.
        sizes: How many images are for "train" (the text tower), "validation" and "test"; the rest
            is the pool. Which ones depends on their keys alone.
        folder: Where all is stored.
    """
    keys = _write_parts(table, sizes, folder / "parts.parquet")
    dataset = ingest("embeddings", str(folder / "parts.parquet"), folder / "raw", preset.data, 0)
    images = PrecomputedEmbedding(dataset).run(folder / "image", "cpu", threads=1)
    encoders = preset.encoders
    assert encoders.training is not None
    task = TextTowerTask(encoders, dataset, images)
    tower = train(task, replace(encoders.training, seed=0), folder / "tower", name="text tower")
    pooled = ArrayStore.load(folder / "tower" / "pooled")
    texts = _write_texts(tower.model, pooled, images, folder / "text")
    return Data(images, texts, keys[POOL], keys[VALIDATION], keys[TEST])


@torch.no_grad()
def _write_texts(
    heads: TextHeads, pooled: ArrayStore, images: ArrayStore, folder: Path
) -> ArrayStore:
    """The captions' embeddings, and as their one token the mean of their tokens."""
    width = pooled.mapped(pooled.shards[0], "pooled").shape[1]
    names = ("encoder", "names", "encoder_dims", "width")
    spec = {name: images.spec[name] for name in names} | {"text_width": width, "text_tokens": 1}

    def embedded(shard: str) -> Arrays:
        keys, means = pooled.read_with_keys(shard, "pooled")
        text = torch.cat(heads(torch.from_numpy(means))[0], dim=1)
        tokens = RaggedArray.of_lengths(means.astype(np.float16), np.ones(len(means), np.int64))
        scaled = scale_per_encoder(text, spec["encoder_dims"]).numpy().astype(np.float16)
        return {"keys": keys, "text": scaled, "tokens": tokens}

    return compute_missing(folder, pooled, spec, embedded, "captions")


def _write_parts(table: Path, sizes: dict[str, int], path: Path) -> dict[str, Keys]:
    """Write the table with splits; returns the keys by what they are for.

    All but the text tower's own images are of other splits than "train", so it reads no caption of
    theirs. Of the pool and of what is held out, an image has one caption, its first.
    """
    rows = pq.read_table(table)
    caption = caption_column_of(rows.column_names, None)
    assert caption is not None, f"{table} has no captions"
    names = rows["key"].to_numpy().astype(str)
    part = _parts_of(names, sizes)
    captions = rows[caption].to_pylist()
    texts = [
        each if of == TRAIN else each[:1] for each, of in zip(captions, part.tolist(), strict=True)
    ]
    split = np.where(part == POOL, TEST, part)
    others = [name for name in rows.column_names if name not in (caption, "split")]
    written = rows.select(others).append_column("text", pa.array(texts))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(written.append_column("split", pa.array(split.tolist())), path)
    return {each: tuple(names[part == each].tolist()) for each in (POOL, VALIDATION, TEST)}


def _parts_of(keys: NDArray[np.str_], sizes: dict[str, int]) -> NDArray[np.str_]:
    """What each image is for [n], by the rank of its key."""
    part = np.full(len(keys), POOL, dtype="U10")
    order, begin = np.argsort(ranks_of(keys, 0)), 0
    for name in (TRAIN, VALIDATION, TEST):
        part[order[begin : begin + sizes[name]]] = name
        begin += sizes[name]
    return part
