"""A cascade small enough to memorise eight coloured shapes in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from corgi_core.config import CascadeSettings, StageSettings, TrainingSettings
from corgi_core.decoders.cascade.decoder import CascadeDecoder
from corgi_core.decoders.cascade.task import CascadeTask
from corgi_core.training.loop import train
from tests.helpers.shapes import SHAPES, SIDE, a_task

TINY_CASCADE = CascadeSettings(
    image_size=SIDE,
    stages=(
        StageSettings(size=8, channels=(16, 32), layers=1, attention_levels=1, noise_shift=-1.0),
        StageSettings(size=16, channels=(16, 16), layers=1, attention_levels=0, noise_shift=-1.0),
    ),
    vectors=8, vector_width=32, prediction="v", condition_noise=0.5, sampling_noise=0.1,
    perturbed=0.0, min_cosine=0.7, cond_dropout=0.1, guidance=1.0, num_steps=6,
    training=TrainingSettings(
        steps=170, batch_size=SHAPES, learning_rate=8e-3, warmup_steps=20, ema_decay=0.96,
        precision="fp32", weight_decay=0.0, evaluate_every=170,
    ),
)  # fmt: skip


def a_cascade_task(folder: Path, settings: CascadeSettings = TINY_CASCADE) -> CascadeTask:
    """The shapes' pictures and embeddings, for a cascade."""
    task = a_task(folder)
    return CascadeTask(
        settings, task.pixels, task.embeddings, task.train_keys, task.validation_keys
    )


def trained_cascade(
    task: CascadeTask, folder: Path, training: TrainingSettings | None = None
) -> CascadeDecoder:
    """The decoder of all stages, trained in turn; its card has each stage's metrics."""
    results = {
        part: train(each, training or each.training_settings, folder / part)
        for part, each in task.parts().items()
    }
    metrics = {part: result.metrics for part, result in results.items()}
    models = [result.model for result in results.values()]
    return task.assembled(models, {"metrics": metrics})


def altered(**changes: object) -> CascadeSettings:
    return replace(TINY_CASCADE, **changes)  # type: ignore[arg-type]
