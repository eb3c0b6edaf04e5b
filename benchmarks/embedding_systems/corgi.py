"""Ours: shards of a dataset through the job of the asset `image_embeddings`, in one process.

`python -m benchmarks.embedding_systems.corgi FOLDER` speaks the protocol of `case`.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks.embedding_systems.case import Case, cosine, serve
from benchmarks.embedding_systems.open_clip_loop import loaded
from corgi_core.config import InferencePrecision
from corgi_core.data.dataset import Dataset
from corgi_core.data.pixels import Pixels, decoded
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.embed import ImageEmbedding

FEW = 16


class Corgi:
    def embed(self, case: Case, folder: Path) -> int:
        threads = torch.get_num_threads()
        job = _job(case.folder, case.model, case.precision)
        pixels = None
        if case.stored:
            size = job._ensemble.image_size
            pixels = Pixels(job.images, size).run(folder / "pixels", "cpu", threads)
        if pixels is not None:
            job = ImageEmbedding(job.images, pixels, job.clip, precision=job.precision)
        return len(job.run(folder / "embeddings", "cpu", threads))

    def check(self, case: Case) -> float:
        clip = ClipEnsemble.load((case.model,))
        clip.precision = case.precision
        dataset = Dataset.load(Path(case.folder))
        _, squares = decoded(list(islice(dataset.images("00000"), FEW)), clip.image_size)
        pixels = torch.from_numpy(squares)
        model, mean, std = loaded(case.architecture, case.config, case.weights, "fp32")
        with torch.no_grad():
            plain = model.encode_image((pixels / 255 - mean) / std)
        return cosine(clip.encode_images(pixels).numpy().astype(np.float16), plain.numpy())


@lru_cache
def _job(folder: str, model: str, precision: str) -> ImageEmbedding:
    """One for all rounds: it has loaded its encoder."""
    assert precision in get_args(InferencePrecision)
    return ImageEmbedding(Dataset.load(Path(folder)), None, (model,), precision=precision)


if __name__ == "__main__":
    serve(Corgi(), Path(sys.argv[1]))
