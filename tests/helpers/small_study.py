"""A study small enough for the tests: embeddings whose captions tell a part of them."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from corgi_core.config import Preset, StudySettings, TrainingSettings, preset_named
from corgi_core.data.arrays import Arrays, ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.ragged import RaggedArray
from corgi_core.data.shards import Sample
from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.experiments.prior_ablation.arms import fitted_banks
from corgi_core.experiments.prior_ablation.measure import Study, measure_arm
from corgi_core.experiments.prior_ablation.sweeps import plans_of, sweeps_of
from corgi_core.gaussians.stream import EmbeddingStream

IMAGES, TOKENS, TEXT_WIDTH, BLOCKS = 120, 5, 6, (4, 8)

PRESET: Preset = replace(
    preset_named("emoji-small"),
    gaussians=replace(preset_named("emoji-small").gaussians, contrast=0.0),  # seconds an arm
    prior=replace(preset_named("emoji-small").prior, width=16, layers=1, heads=2, noise_samples=2),
    study=StudySettings(
        training=TrainingSettings(
            steps=12, batch_size=16, learning_rate=1e-2, warmup_steps=2, ema_decay=0.5,
            checkpoint_every=4, evaluate_every=6,
        ),
        seeds=(0, 1, 2), gaussians=(1, 2), kappas=(1.0,), guidances=(1.0, 2.0),
        captions=(0.5, 1.0), samplers=("ddpm", "ddim"), steps=(1, 3), main_steps=(1, 3),
        guided_steps=2, held_out=20, spread_captions=6, spread_samples=3,
    ),
)  # fmt: skip


def dataset(folder: Path) -> Dataset:
    """Captioned images, one in four held out; every second one has two captions."""
    samples = [
        Sample(
            f"{n:04d}", b"picture", [f"caption {n}"] * (1 + n % 2),
            "validation" if n % 4 == 0 else "train", "made", f"group {n}", "png",
        )
        for n in range(IMAGES)
    ]  # fmt: skip
    return write_dataset(folder / "images", samples, shard_size=40)


def stores(folder: Path, images: Dataset) -> tuple[ArrayStore, ArrayStore]:
    """Image and text embeddings of width 12, around a mean as CLIP's are."""
    spec = {
        "encoder": "made",
        "names": ["a", "b"],
        "encoder_dims": list(BLOCKS),
        "width": sum(BLOCKS),
    }
    random = np.random.default_rng(0)
    meaning = random.normal(size=(IMAGES, sum(BLOCKS)))
    noise = random.normal(size=(IMAGES, sum(BLOCKS)))
    mixed = torch.from_numpy(1.0 + meaning + 0.5 * noise)
    real = scale_per_encoder(mixed, BLOCKS).numpy().astype(np.float16)

    def image(shard: str) -> dict[str, np.ndarray]:
        keys = images.rows(shard)["key"].to_numpy(dtype=str)
        return {"keys": keys, "image": real[keys.astype(int)]}

    def text(shard: str) -> Arrays:
        rows = images.rows(shard)
        keys = np.repeat(rows["key"].to_numpy(dtype=str), rows["captions"].map(len))
        which = keys.astype(int)
        tokens = np.resize(meaning[which], (len(which) * TOKENS, TEXT_WIDTH)).astype(np.float16)
        return {
            "keys": keys,
            "text": meaning[which].astype(np.float16),
            "tokens": RaggedArray.of_lengths(tokens, np.full(len(which), TOKENS)),
        }

    about_text = {**spec, "text_width": TEXT_WIDTH, "text_tokens": TOKENS}
    return (
        compute_missing(folder / "image", images, spec, image, "images"),
        compute_missing(folder / "text", images, about_text, text, "texts"),
    )


def small_study(folder: Path, preset: Preset = PRESET) -> Study:
    images = dataset(folder)
    image, text = stores(folder, images)
    arms = [plan.arm for plan in plans_of(sweeps_of(preset), seed=0, max_steps=3)]
    training = EmbeddingStream.of_split(images, image, "train")
    banks = fitted_banks(training, arms, BLOCKS, preset.gaussians, seed=0)
    return Study(images, image, text, banks, preset, folder / "work")


def measure_two_arms(folder: Path, die_after: int | None = None) -> None:
    """Measure the study's first two arms; the process kills itself at a step of the second."""
    study = small_study(folder)
    plans = plans_of(sweeps_of(study.preset), seed=0, max_steps=3)[:2]
    measure_arm(study, plans[0])
    if die_after is not None:
        _die_at_step(die_after)
    measure_arm(study, plans[1])


def _die_at_step(step: int) -> None:
    from corgi_core.prior.task import PriorTask

    loss = PriorTask.loss

    def fatal(self, model, batch, random):  # type: ignore[no-untyped-def]
        if random.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(self, model, batch, random)

    PriorTask.loss = fatal  # type: ignore[method-assign]
