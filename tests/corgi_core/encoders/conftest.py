"""Small real encoders: open_clip models with random weights, and a dataset of squares."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from corgi_core.config import EncoderSettings, TrainingSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.pixels import pixels
from corgi_core.data.shards import Sample
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.train_clip import ClipTask
from tests.helpers.tiny_vit import tiny_vit

COLOURS = {"red": (220, 30, 30), "green": (30, 170, 60), "blue": (30, 60, 220)}
POSITIONS = {"left": (4, 20), "right": (36, 20), "top": (20, 4), "bottom": (20, 36)}


SMALL = EncoderSettings(
    clip=("trained",), text="minilm", text_tokens=12,
    image_size=64, width=32, tower_layers=(1, 1, 1, 1), tower_channels=8,
    training=TrainingSettings(
        steps=60, batch_size=12, learning_rate=2e-3, warmup_steps=5, ema_decay=0.9
    ),
)  # fmt: skip


def _square(colour: str, position: str, shade: int) -> bytes:
    picture = np.full((64, 64, 3), 255, dtype=np.uint8)
    left, top = POSITIONS[position]
    picture[top : top + 24, left : left + 24] = np.array(COLOURS[colour]) + shade
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """48 squares of 3 colours in 4 positions, 12 of them held out; one image has no caption."""
    samples = [
        Sample(
            key=f"{colour}-{position}-{shade:02d}",
            image=_square(colour, position, shade),
            captions=[f"a {colour} square on the {position}"],
            split="validation" if shade == 15 else "train",
            source="squares",
            group=f"{colour}-{position}-{shade}",
        )
        for colour in COLOURS
        for position in POSITIONS
        for shade in (0, 5, 10, 15)
    ]
    alone = Sample("without-caption", _square("red", "top", 20), None, "train", "squares", "alone")
    return write_dataset(tmp_path_factory.mktemp("squares"), [*samples, alone], shard_size=20)


@pytest.fixture(scope="session")
def square_pixels(squares: Dataset, tmp_path_factory: pytest.TempPathFactory) -> ArrayStore:
    return pixels(squares, tmp_path_factory.mktemp("pixels"), 64)


@pytest.fixture(scope="session")
def small() -> EncoderSettings:
    return SMALL


@pytest.fixture(scope="session")
def untrained(squares: Dataset, square_pixels: ArrayStore) -> ClipEnsemble:
    """The kind of encoder that Corgi trains, with random image tower and projection."""
    torch.manual_seed(0)
    task = ClipTask(SMALL, squares, square_pixels)
    return task.ensemble(task.build(), card={})


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain open_clip folder: a small ViT with open_clip's own text transformer."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("models") / "tiny-vit"
    folder.mkdir()
    tiny_vit("tiny-vit", width=48, layers=2, context_length=16).save(folder)
    return folder
