"""Ours: a dataset's shards as the asset `image_embeddings` embeds them in one process.

`python -m benchmarks.embedding_systems.corgi FOLDER` speaks the protocol of `case`.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from benchmarks.embedding_systems.case import Case, cosine, serve
from benchmarks.embedding_systems.open_clip_loop import loaded
from corgi_core.data.dataset import Dataset
from corgi_core.data.pixels import decoded, pixels
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.embed import embed_images

FEW = 16


class Corgi:
    def embed(self, case: Case, folder: Path) -> int:
        clip, dataset = _clip(case), Dataset.load(Path(case.folder))
        squares = None
        if case.stored:
            squares = pixels(dataset, folder / "pixels", clip.image_size)
        return len(embed_images(clip, dataset, squares, folder / "embeddings"))

    def check(self, case: Case) -> float:
        clip, dataset = _clip(case), Dataset.load(Path(case.folder))
        _, squares = decoded(
            list(islice(dataset.images("00000"), FEW)), clip.image_size, "letterbox"
        )
        images = torch.from_numpy(squares)
        model, mean, std = loaded(case.architecture, case.config, case.weights, "fp32")
        with torch.no_grad():
            plain = model.encode_image((images / 255 - mean) / std)
        return cosine(clip.encode_images(images).numpy().astype(np.float16), plain.numpy())


def _clip(case: Case) -> ClipEnsemble:
    clip = _loaded_clip(case.model)
    clip.precision = case.precision
    return clip


@lru_cache
def _loaded_clip(model: str) -> ClipEnsemble:
    return ClipEnsemble.load((model,))


if __name__ == "__main__":
    serve(Corgi(), Path(sys.argv[1]))
