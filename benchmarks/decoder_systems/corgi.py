"""A kind of Corgi's decoders: its task, and the training loop's own parts around it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.decoder_systems.system import Case
from benchmarks.training_steps import TrainingSteps
from corgi_core.config import DataSettings, preset_named
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.ingest import ingest
from corgi_core.data.keys import ListedKeys, SplitKeys
from corgi_core.data.pixels import pixels
from corgi_core.decoders.registry import decoder_task
from corgi_core.decoders.task import DecoderTask
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.embed import embed_images
from corgi_core.encoders.train_clip import ClipTask
from corgi_core.training.memory import keep_freed_memory


class Corgi:
    """Steps of a kind's training, by the training loop's own parts; of every part one a step."""

    def __init__(self, kind: str, case: Case) -> None:
        self._parts = []
        for part in task_on(kind, case).parts().values():
            part.prepare_data(case.stores / f"{kind}-data")
            model = part.build()
            part.prepare(model)
            self._parts.append(TrainingSteps(part, part.training_settings, model))

    def step(self) -> None:
        """A step of every part: a cascade's peer trains all its stages in one."""
        for part in self._parts:
            part.step()

    def running(self) -> AbstractContextManager[None]:
        return keep_freed_memory()


def task_on(kind: str, case: Case) -> DecoderTask[Any, Any]:
    """The training of a kind of decoder on the case's stores."""
    settings = preset_named(case.preset).decoder_of(kind)
    training = replace(settings.training, batch_size=case.batch, precision=case.precision, seed=0)
    return decoder_task(
        replace(settings, training=training), ClipEnsemble.load(case.stores / "clip"),
        pixels=ArrayStore.load(case.stores / "pixels"),
        embeddings=ArrayStore.load(case.stores / "embeddings"),
        train_keys=SplitKeys(Dataset.load(case.stores / "images"), "train"),
        validation_keys=ListedKeys(()),
    )  # fmt: skip


def make_stores(preset: str, pictures: Path, folder: Path) -> None:
    """Ingest the pictures and embed them by the preset's own CLIP as it is before training."""
    images = ingest(
        "imagefolder",
        str(pictures),
        folder / "images",
        DataSettings(test_fraction=0.0, validation_fraction=0.0),
        seed=0,
    )
    settings = preset_named(preset)
    assert settings.decoder is not None
    squares = pixels(images, folder / "pixels", settings.decoder.image_size)
    task = ClipTask(settings.encoders, images, squares)
    clip = task.ensemble(task.build(), {})
    clip.save(folder / "clip")
    embed_images(clip, images, squares, folder / "embeddings")
