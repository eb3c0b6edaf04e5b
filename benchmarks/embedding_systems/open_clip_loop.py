"""A plain loop: torch's DataLoader over tars, open_clip's own preprocessing and encoder.

`python -m benchmarks.embedding_systems.open_clip_loop FOLDER` speaks the protocol of `case`.
"""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.embedding_systems.case import RESULT, Case, cosine, serve

FEW = 16


class Photographs(IterableDataset[tuple[str, Tensor]]):
    """(key, preprocessed image) of tars, which DataLoader's workers share."""

    def __init__(self, tars: list[str], preprocess: Callable[[Image.Image], Tensor]) -> None:
        self.tars, self.preprocess = tars, preprocess

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for path in self.tars[first::step]:
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".jpg"):
                        file = tar.extractfile(member)
                        assert file is not None
                        image = Image.open(io.BytesIO(file.read()))
                        yield member.name, self.preprocess(image)


class OpenClipLoop:
    def embed(self, case: Case, folder: Path) -> int:
        model, mean, std = loaded(case.architecture, case.config, case.weights, case.precision)
        size = model.visual.image_size
        preprocess = open_clip.image_transform(
            size, is_train=False, mean=mean.flatten().tolist(), std=std.flatten().tolist()
        )
        loader = DataLoader(
            Photographs(case.tars, preprocess), case.batch, num_workers=case.workers
        )
        features = [_encoded(model, images, case.precision) for _, images in loader]
        embeddings = torch.cat(features).half().numpy()
        np.save(folder / RESULT, embeddings)
        return len(embeddings)

    def check(self, case: Case) -> float:
        named = case.architecture, case.config, case.weights
        images = torch.randn(FEW, 3, *loaded(*named, "fp32")[0].visual.image_size)
        exact, found = (
            _encoded(loaded(*named, precision)[0], images, precision)
            for precision in ("fp32", case.precision)
        )
        return cosine(found.half().numpy(), exact.numpy())


@torch.inference_mode()
def _encoded(model: Any, images: Tensor, precision: str) -> Tensor:
    half = torch.bfloat16
    autocast = torch.autocast("cpu", half) if precision == "amp_bf16" else nullcontext()
    with autocast:
        features = model.encode_image(images.to(half) if precision == "bf16" else images)
    return F.normalize(features.float(), dim=-1)


@lru_cache
def loaded(
    architecture: str, config: str | None, weights: str, precision: str
) -> tuple[Any, Tensor, Tensor]:
    """open_clip's model in eval mode, and the mean and standard deviation of its pixels."""
    if config is not None:
        open_clip.add_model_config(config)
    model = open_clip.create_model(architecture, pretrained=weights)
    model = model.eval().to(torch.bfloat16 if precision == "bf16" else torch.float32)
    cfg = model.visual.preprocess_cfg
    mean, std = (torch.tensor(cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    return model, mean, std


if __name__ == "__main__":
    serve(OpenClipLoop(), Path(sys.argv[1]))
