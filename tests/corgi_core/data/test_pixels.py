"""Pixels: squares, padded with white or cropped, in the manifest's order."""

import io

import numpy as np
import pytest
import torch
from open_clip import image_transform
from PIL import Image

from benchmarks.embedding_systems.photographs import photograph
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import write_dataset
from corgi_core.data.pixels import Pixels, pixels, resized, square
from corgi_core.data.quality import gate
from tests.helpers.made import SETTINGS, encoded, sample
from tests.helpers.whole import manifest_of


def test_padding_is_white_and_in_the_middle():
    wide = square(encoded(Image.new("RGB", (40, 20), (10, 20, 30))), 40)
    assert wide.shape == (3, 40, 40)
    assert wide.dtype == np.uint8
    assert (wide[:, 10:30].reshape(3, -1).T == (10, 20, 30)).all()
    assert (wide[:, :10] == 255).all()
    assert (wide[:, 30:] == 255).all()
    tall = square(encoded(Image.new("RGB", (20, 40), (10, 20, 30))), 40)
    assert (tall.transpose(0, 2, 1) == wide).all()


def test_a_size_of_its_own_is_untouched_and_shrinking_keeps_the_mean():
    ramp = Image.linear_gradient("L").convert("RGB")
    assert (square(encoded(ramp), 256) == np.asarray(ramp).transpose(2, 0, 1)).all()
    assert abs(square(encoded(ramp), 32).mean() - np.asarray(ramp).mean()) < 1


@pytest.mark.parametrize("sides", [(900, 700), (640, 480), (97, 61)])
def test_photographs_are_resized_as_after_a_whole_decoding(sides: tuple[int, int]):
    file = photograph(0, *sides)
    whole = Image.open(io.BytesIO(file)).convert("RGB")
    height = round(112 * sides[1] / sides[0])
    expected = np.full((112, 112, 3), 255, np.float32)
    top = (112 - height) // 2
    expected[top : top + height] = whole.resize((112, height), Image.Resampling.LANCZOS)
    error = np.abs(square(file, 112).transpose(1, 2, 0) - expected)
    assert error.mean() < 1
    assert error.max() < 24


@pytest.mark.parametrize("sides", [(64, 48), (97, 61), (61, 97), (50, 50), (20, 90)])
def test_a_crop_is_what_clips_own_preprocessing_gives(sides: tuple[int, int]):
    picture = Image.open(io.BytesIO(photograph(1, *sides))).convert("RGB")
    plain = image_transform(32, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3)
    expected = (plain(picture) * 255).round().to(torch.uint8).numpy()
    np.testing.assert_array_equal(square(encoded(picture), 32, "crop"), expected)


@pytest.mark.parametrize("sides", [(1, 1024), (1024, 3), (40, 1000), (1500, 170)])
def test_of_a_strip_the_middle_alone_is_resized(sides: tuple[int, int]):
    picture = Image.open(io.BytesIO(photograph(1, *sides))).convert("RGB")
    plain = image_transform(64, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3)
    expected = (plain(picture) * 255).round().numpy()
    assert np.abs(square(encoded(picture), 64, "crop") - expected).max() <= 2


def test_no_picture_is_made_that_is_much_larger_than_the_crop(monkeypatch: pytest.MonkeyPatch):
    made: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def noted(self: Image.Image, size: tuple[int, int], *options: object) -> Image.Image:
        made.append(size)
        return resize(self, size, *options)

    monkeypatch.setattr(Image.Image, "resize", noted)
    for sides in [(1, 1024), (8, 1), (9, 1)]:
        assert square(encoded(Image.new("RGB", sides)), 256, "crop").shape == (3, 256, 256)
    assert made == [(256, 256), (2048, 256), (256, 256)]


def test_a_large_photograph_is_cropped_as_after_a_whole_decoding():
    file = photograph(0, 900, 700)
    plain = image_transform(112, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3)
    error = np.abs(square(file, 112, "crop") - plain(Image.open(io.BytesIO(file))).numpy() * 255)
    assert error.mean() < 1
    assert error.max() < 24


@pytest.mark.parametrize(
    ("size", "decoded"), [(30, (100, 75)), (50, (100, 75)), (51, (200, 150)), (200, (400, 300))]
)
def test_of_a_jpeg_no_more_is_decoded_than_twice_the_size(size: int, decoded: tuple[int, int]):
    picture = Image.open(io.BytesIO(photograph(0, 400, 300)))
    assert resized(picture, size, size * 3 // 4).size == (size, size * 3 // 4)
    assert picture.size == decoded


def test_rows_follow_the_dataset(tmp_path):
    shades = {f"{n:02d}": Image.new("RGB", (5 + n, 5 + n), (n, 2 * n, 3 * n)) for n in range(7)}
    raw = write_dataset(
        tmp_path / "raw", [sample(k, encoded(p)) for k, p in shades.items()], shard_size=3
    )
    images = gate(raw, tmp_path / "images", SETTINGS)
    store = ArrayStore.load(pixels(images, tmp_path / "pixels", 8).folder, expect={"size": 8})
    assert store.keys.tolist() == manifest_of(images)["key"].tolist()
    assert store.read("pixels").shape == (7, 3, 8, 8)
    middle = store.read("pixels")[:, :, 4, 4]
    assert (middle == [(n, 2 * n, 3 * n) for n in range(7)]).all()
    assert pixels(images, tmp_path / "pixels", 8).recomputed == 0
    assert pixels(images, tmp_path / "pixels", 16).recomputed == 3
    assert pixels(images, tmp_path / "pixels", 16, "crop").recomputed == 3
    about = {"size": 16, "framing": "crop", "revision": Pixels.revision}
    assert ArrayStore.load(tmp_path / "pixels").spec == about
