"""The trained encoder: what it learns, what its loss is, and that it is an open_clip model."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from torch.nn import functional as F

from corgi_core.config import EncoderSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.image_index import ImageIndex
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.contrastive import JITTER_NUMBERS, jittered
from corgi_core.encoders.train_clip import ClipTask, DualEncoder
from corgi_core.errors import CorgiError
from corgi_core.training.loop import train
from corgi_core.training.randomness import StepRandom
from tests.helpers.losses import loss_of
from tests.helpers.whole import manifest_of


@pytest.fixture(scope="module")
def task(
    small: EncoderSettings,
    squares: Dataset,
    square_pixels: ArrayStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> ClipTask:
    task = ClipTask(small, squares, square_pixels)
    task.prepare_data(tmp_path_factory.mktemp("clip-data"))
    return task


@pytest.fixture(scope="module")
def trained(task: ClipTask, tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    assert task.settings.training is not None
    result = train(task, task.settings.training, tmp_path_factory.mktemp("clip-run"))
    assert isinstance(result.model, DualEncoder)
    return result.model


def test_training_finds_colour_and_position_of_held_out_squares(
    task: ClipTask, trained: DualEncoder
) -> None:
    torch.manual_seed(0)
    before = task.evaluate(task.build().eval())
    after = task.evaluate(trained)
    assert after["held_out_images"] == 12
    assert after["recall_at_5"] > 0.9  # by chance 0.42
    assert after["recall_at_1"] > max(0.5, before["recall_at_1"])
    assert after["held_out_cosine"] > before["held_out_cosine"]


def test_what_is_trained_is_what_open_clip_computes(
    task: ClipTask, trained: DualEncoder, tmp_path: Path
) -> None:
    task.ensemble(trained, {"training": "abc"}).save(tmp_path / "ensemble")
    loaded = ClipEnsemble.load(tmp_path / "ensemble")
    assert loaded.card == {"training": "abc"}
    model = loaded.encoders[0].model
    assert isinstance(model, open_clip.CustomTextCLIP)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'ensemble' / '0'}")
    captions = [texts[0] for texts in manifest_of(task.images)["captions"] if texts][:4]
    rows_of_training = manifest_of(task.images).query("split == 'train'")["captions"]
    of_training = [text for texts in rows_of_training for text in (texts if texts else [])]
    pairs = task.batch(torch.arange(task.rows), StepRandom(0, 0, task.rows))
    rows = [of_training.index(caption) for caption in captions if caption in of_training]
    with torch.no_grad():
        text = model.encode_text(tokenizer([of_training[r] for r in rows]), normalize=True)
        image = model.encode_image((pairs.pixels[rows] / 255 - 1) / 0.5, normalize=True)
        torch.testing.assert_close(
            trained.encode_texts(pairs.pooled[rows]), text, atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            trained.encode_images(pairs.pixels[rows] / 255), image, atol=1e-5, rtol=1e-4
        )


def test_the_loss_is_clips_cross_entropy_written_out(task: ClipTask) -> None:
    torch.manual_seed(0)
    model = task.build().eval()
    rows = torch.arange(6)
    loss = loss_of(task, model, rows, StepRandom(0, 0, 6))["loss"]
    pairs = task.batch(rows, StepRandom(0, 0, 6))
    with torch.no_grad():
        pixels = jittered(pairs.pixels[rows] / 255, StepRandom(0, 0, 6).uniform(JITTER_NUMBERS))
        image, text, scale = model(pixels, pairs.pooled[rows])
        logits = scale * image @ text.T
        by_image = -torch.stack([F.log_softmax(logits[i], 0)[i] for i in range(6)]).mean()
        by_text = -torch.stack([F.log_softmax(logits[:, i], 0)[i] for i in range(6)]).mean()
    torch.testing.assert_close(loss, (by_image + by_text) / 2)


def test_images_without_captions_and_held_out_ones_are_not_trained_on(task: ClipTask) -> None:
    keys = {key for n in range(len(task.pixels.shards)) for key in task._training.shard_keys(n)}
    held_out = set(manifest_of(task.images).query("split == 'test'")["key"])
    assert task.rows == 36
    assert not keys & (held_out | {"without-caption"})


def test_it_learns_from_the_same_images_where_they_are_decoded(
    task: ClipTask, tmp_path: Path
) -> None:
    index = ImageIndex(task.images, task.pixels.spec["size"]).run(tmp_path, "cpu", threads=1)
    online = replace(task, pixels=index)
    online._texts = task._texts
    rows, random = torch.tensor([5, 0, 17, 35]), StepRandom(0, 0, 4)
    ours, expected = online.batch(rows, random), task.batch(rows, random)
    assert torch.equal(ours.pixels, expected.pixels)
    assert torch.equal(ours.pooled, expected.pooled)


def test_the_task_travels_to_workers(task: ClipTask, tmp_path: Path) -> None:
    there = pickle.loads(pickle.dumps(task))
    there.prepare_data(tmp_path)
    assert there.rows == 36


def test_settings_that_do_not_fit_are_explained(
    small: EncoderSettings, squares: Dataset, square_pixels: ArrayStore
) -> None:
    with pytest.raises(CorgiError, match=r"pixels are 64 .* CLIP encoder's image_size is 96"):
        ClipTask(replace(small, image_size=96), squares, square_pixels)


def test_no_jitter_at_the_middle_of_its_range() -> None:
    pixels = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(jittered(pixels, torch.full((2, JITTER_NUMBERS), 0.5)), pixels)


def test_jitter_shifts_by_a_share_of_the_side_over_white() -> None:
    pixels = torch.zeros(1, 3, 50, 50)
    uniform = torch.full((1, JITTER_NUMBERS), 0.5)
    uniform[0, 1] = 1.0  # looks 6 % further right: three columns of white come into view
    shifted = jittered(pixels, uniform)
    torch.testing.assert_close(shifted[..., :47], torch.zeros(1, 3, 50, 47), atol=1e-5, rtol=0)
    torch.testing.assert_close(shifted[..., 47:], torch.ones(1, 3, 50, 3), atol=1e-5, rtol=0)
