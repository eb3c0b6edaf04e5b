"""The memory of an evaluation of many pictures: `python -m benchmarks.evaluation`.

Makes held-out images, embeddings and captions of random numbers, and small, untrained models (a
CLIP, a prior, a PCA decoder), in a temporary folder. Evaluates the prior and the decoder on them,
each number of images in a fresh process, and prints the seconds and the process's peak resident
memory, beside the memory that all of its pictures would take as float32.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fresh_process import in_fresh_process, peak_gb
from corgi_core.config import EvaluationSettings, preset_named
from corgi_core.data.arrays import Arrays, ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.ragged import RaggedArray
from corgi_core.data.shards import Sample
from corgi_core.evaluation.evaluate import evaluate
from corgi_core.evaluation.material import Material, TrainingData
from corgi_core.evaluation.stored_models import StoredDecoder, StoredPrior
from corgi_core.io.files import write_json

SHARD = 1000  # images
TRAINING, VALIDATION = 1024, 256  # images beside those that are evaluated
WIDTH, TEXT_WIDTH, TOKENS = 64, 32, 8
PRESET = preset_named("emoji-small")


def made(folder: Path, count: int, size: int) -> tuple[Dataset, ArrayStore, ArrayStore, ArrayStore]:
    """Images with their embeddings, captions' embeddings and pixels, all at random.

    `count` are held out; 1,024 more are for training and 256 for validation.
    """
    splits = {"test": count, "train": TRAINING, "validation": VALIDATION}
    every = chain.from_iterable([split] * number for split, number in splits.items())
    samples = (
        Sample(f"{n:07d}", b"", [f"number {n}"], split, "made", str(n), "png")
        for n, split in enumerate(every)
    )
    images = write_dataset(folder / "images", samples, SHARD)
    about = {"encoder": "made", "encoder_dims": [WIDTH], "names": ["made"], "width": WIDTH}

    def stored(name: str, spec: dict[str, Any], rows: Callable[..., Arrays]) -> ArrayStore:
        def compute(shard: str) -> Arrays:
            keys = images.rows(shard, "key")["key"].to_numpy(dtype=str)
            return {"keys": keys, **rows(np.random.default_rng(int(shard)), len(keys))}

        return compute_missing(folder / name, images, spec, compute, name)

    def image(random: np.random.Generator, n: int) -> Arrays:
        return {"image": random.standard_normal((n, WIDTH), np.float32).astype(np.float16)}

    def text(random: np.random.Generator, n: int) -> Arrays:
        values = random.standard_normal((TOKENS * n, TEXT_WIDTH), np.float32).astype(np.float16)
        tokens = RaggedArray.of_lengths(values, np.full(n, TOKENS))
        return {"text": image(random, n)["image"], "tokens": tokens}

    def pixels(random: np.random.Generator, n: int) -> Arrays:
        return {"pixels": random.integers(0, 256, (n, 3, size, size), np.uint8)}

    texts = about | {"text_width": TEXT_WIDTH, "text_tokens": TOKENS}
    return (
        images, stored("image", about, image), stored("text", texts, text),
        stored("pixels", {"size": size}, pixels),
    )  # fmt: skip


def save_models(folder: Path, encoders: dict[str, Any], size: int) -> None:
    """Untrained models in "clip", "prior" and "decoder"."""
    from corgi_core.decoders.pca.decoder import PCADecoder
    from corgi_core.decoders.pca.network import PCANetwork, PCAShape
    from corgi_core.encoders.clip import ClipEnsemble
    from corgi_core.gaussians.bank import GaussianBank
    from corgi_core.prior.model import PriorModel
    from corgi_core.prior.network import PriorNetwork, PriorShape

    ClipEnsemble([_small_vit()]).save(folder / "clip")
    shape = PriorShape(WIDTH, TEXT_WIDTH, TOKENS, gaussians=1, width=32, layers=1, heads=2)
    prior = PriorNetwork(shape).eval()
    bank, settings = GaussianBank.standard([WIDTH]), replace(PRESET.prior, num_steps=2)
    PriorModel(prior, bank, settings, encoders, {}).save(folder / "prior")
    assert PRESET.decoder is not None
    of_decoder = replace(
        PRESET.decoder, image_size=size, guidance=1.0, num_steps=2,
        **{"components": 64, "width": 64, "vector_width": 16},
    )  # fmt: skip
    sizes = {
        each.name: getattr(of_decoder, each.name)
        for each in fields(PCAShape)
        if hasattr(of_decoder, each.name)
    }
    decoder = PCANetwork(PCAShape(embedding_width=WIDTH, **sizes)).eval()
    PCADecoder(decoder, of_decoder, encoders, {}).save(folder / "decoder")


def _small_vit() -> Any:
    from corgi_core.encoders.open_clip_model import OpenClipModel

    import open_clip  # isort: skip  after corgi_core, which mends torchvision beside a CPU's torch

    architecture = {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1},
        "text_cfg": {"context_length": 16, "width": 64, "heads": 2, "layers": 1},
    }
    model = open_clip.CLIP(**architecture)
    open_clip.model.set_model_preprocess_cfg(
        model,
        {"size": (32, 32), "mode": "RGB", "mean": open_clip.OPENAI_DATASET_MEAN,
         "std": open_clip.OPENAI_DATASET_STD, "interpolation": "bicubic",
         "resize_mode": "shortest", "fill_color": 0},
    )  # fmt: skip
    return OpenClipModel("small", model, architecture, open_clip.get_tokenizer("ViT-B-32"))


def measured(count: int, size: int, threads: int) -> dict[str, Any]:
    """Evaluate so many images in this process: seconds, and peak memory in GB."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images, image, text, pixels = made(folder, count, size)
        save_models(folder, text.spec, size)
        material = Material(
            images, image, text, folder / "chunks", lambda job, to: job.run(to, "cpu", threads),
            pixels, folder / "clip", other_training=TrainingData(images, image, text, pixels),
        )  # fmt: skip
        settings = EvaluationSettings(steps=(1,), images=count, captions=count)
        began = time.perf_counter()
        report = evaluate(
            {("baseline", "100%"): StoredPrior.load(folder / "prior")},
            StoredDecoder.load(folder / "decoder"), material, settings,
        )  # fmt: skip
        seconds = time.perf_counter() - began
    rows = report.metrics["pictures"]
    sources = sum(len(subsets) for subsets in rows.values())  # "real against real" is the real ones
    return {
        "images": count,
        "size": size,
        "seconds": round(seconds, 1),
        "peak_gb": peak_gb(),
        "sources": sources,
        "pictures_gb": sources * count * 3 * size**2 * 4 / 1e9,
        "decoded": rows["baseline"]["100%"]["count"],
    }


def main() -> None:
    """Measure each number of images in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[3_000, 30_000])
    parser.add_argument("--size", type=int, default=64, help="pixels to a side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    given = parser.parse_args()
    rows = []
    for count in given.images:
        rows.append(in_fresh_process(measured, count, given.size, given.threads))
        row = rows[-1]
        print(
            f"{row['images']:,} images of {row['size']} pixels: {row['seconds']:,} s, peak "
            f"{row['peak_gb']:.2f} GB; all pictures of {row['sources']} sources as float32 are "
            f"{row['pictures_gb']:.2f} GB"
        )
    if given.json:
        write_json(given.json, rows)


if __name__ == "__main__":
    main()
