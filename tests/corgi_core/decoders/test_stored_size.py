"""One size of stored pixels serves decoders of several sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset
from corgi_core.decoders.cascade.task import CascadeTask
from corgi_core.decoders.pca.task import PCATask
from corgi_core.decoders.stable_diffusion.task import StableDiffusionTask
from corgi_core.decoders.task import DecoderTask
from corgi_core.errors import CorgiError
from corgi_core.streaming.resizing import at_size
from corgi_core.training.loop import train
from tests.helpers.cascades import TINY_CASCADE
from tests.helpers.pipelines import SETTINGS
from tests.helpers.shapes import SHAPES, SIDE, a_task
from tests.helpers.tiny import same
from tests.helpers.tiny_diffusion import save_pipeline, tiny_scheduler, tiny_unet, tiny_vae

pytestmark = pytest.mark.integration  # trains, for seconds


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> PCATask:
    return a_task(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def larger(shapes: PCATask, tmp_path_factory: pytest.TempPathFactory) -> ArrayStore:
    """The shapes' pixels, each of them four times: 32 to a side."""
    return enlarged(shapes, tmp_path_factory.mktemp("larger"))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pipeline")
    return save_pipeline(folder, tiny_vae(), tiny_unet(), tiny_scheduler())


def enlarged(shapes: PCATask, folder: Path) -> ArrayStore:
    images = Dataset.load(shapes.pixels.folder.parent / "images")

    def twice(shard: str) -> dict[str, np.ndarray]:
        keys = images.rows(shard, "key")["key"].to_numpy(str)
        pixels = shapes.pixels.read("pixels")[shapes.pixels.rows_of(keys)]
        return {"keys": keys, "pixels": pixels.repeat(2, axis=2).repeat(2, axis=3)}

    return compute_missing(folder, images, {"size": 2 * SIDE}, twice, "pixels")


def a_diffusion_training(
    shapes: PCATask, pixels: ArrayStore, pipeline: Path, image_size: int
) -> StableDiffusionTask:
    training = replace(SETTINGS.training, steps=4, evaluate_every=4)
    settings = replace(SETTINGS, pretrained=str(pipeline), image_size=image_size, training=training)
    return StableDiffusionTask(
        settings, pixels, shapes.embeddings, shapes.train_keys, shapes.validation_keys
    )


def images_of(task: DecoderTask) -> Tensor:
    """The training images as the task's network sees them, uint8 [n, 3, s, s]."""
    return task.pictures(task.images, torch.arange(SHAPES)).pixels


def test_pixels_of_a_multiple_are_means_over_squares() -> None:
    images = torch.randint(256, (70, 3, 24, 24), dtype=torch.uint8)
    for size in (24, 12, 8, 1):
        squares = images.numpy().reshape(70, 3, size, 24 // size, size, 24 // size)
        expected = squares.mean(axis=(3, 5))
        assert np.abs(at_size(images, size).numpy() - expected).max() <= 0.5


def test_other_sizes_are_those_of_an_antialiased_resize() -> None:
    """Against Pillow, whose resize is antialiased."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    expected = Image.fromarray(noise).resize((24, 24), Image.Resampling.BICUBIC)
    found = at_size(torch.from_numpy(noise).permute(2, 0, 1)[None], 24)[0].permute(1, 2, 0)
    assert np.abs(found.numpy().astype(int) - np.asarray(expected, dtype=int)).max() <= 2


def test_no_images_have_the_size_too() -> None:
    assert at_size(torch.empty((0, 3, 8, 8), dtype=torch.uint8), 4).shape == (0, 3, 4, 4)


def test_larger_stored_pixels_train_the_same_pipeline(
    shapes: PCATask, larger: ArrayStore, pipeline: Path, tmp_path: Path
) -> None:
    own, scaled = (
        a_diffusion_training(shapes, pixels, pipeline, SIDE) for pixels in (shapes.pixels, larger)
    )
    assert torch.equal(images_of(own), images_of(scaled))
    first, second = (
        train(task, task.settings.training, tmp_path / name)
        for name, task in (("own", own), ("scaled", scaled))
    )
    assert same(first.model, second.model)
    assert first.metrics == second.metrics


def test_a_size_that_does_not_divide_the_stored_one_trains_and_decodes(
    shapes: PCATask, larger: ArrayStore, pipeline: Path, tmp_path: Path
) -> None:
    task = a_diffusion_training(shapes, larger, pipeline, 24)
    result = train(task, task.settings.training, tmp_path)
    assert 0 < result.metrics["held_out_pixel_error"] < 1
    decoded = task.decoder(result.model, {}).decode(task.spaced_embeddings[:2])
    assert decoded.shape == (2, 3, 24, 24)


def test_every_kind_sees_its_own_size(shapes: PCATask, larger: ArrayStore) -> None:
    inputs = larger, shapes.embeddings, shapes.train_keys, shapes.validation_keys
    first, second = CascadeTask(TINY_CASCADE, *inputs).parts().values()
    for task, size in ((PCATask(shapes.settings, *inputs), SIDE), (first, 8), (second, 16)):
        assert images_of(task).shape == (SHAPES, 3, size, size)
        assert task.held_out[0].shape == (SHAPES, 3, size, size)


def test_smaller_stored_pixels_are_refused(shapes: PCATask, pipeline: Path) -> None:
    with pytest.raises(CorgiError, match=rf"pixels are {SIDE} to a side.*image_size is 32") as info:
        a_diffusion_training(shapes, shapes.pixels, pipeline, 32)
    assert "image_size" in info.value.remedy
