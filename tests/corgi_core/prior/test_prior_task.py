"""A prior's task: the captions that its logged cosine is of, and the weights that a run keeps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from corgi_core.data.arrays import compute_missing
from corgi_core.io.folders import published
from corgi_core.prior.model import PriorModel
from corgi_core.training.loop import train
from tests.helpers.tiny_prior import TRAINING, OneShard, made_prior

PICTURES, HELD_OUT = 60, 10


@pytest.fixture
def task(tmp_path):
    """Every image has two captions in a row; the text of the second is all 9."""
    task = made_prior(tmp_path / "one", pictures=PICTURES)
    twice = np.repeat(np.arange(PICTURES), 2)
    tokens = task.texts.read_ragged("tokens").take(twice)
    text = task.texts.read("text")[twice]
    text[1::2] = 9
    arrays = {"keys": np.repeat(task.texts.keys, 2), "text": text, "tokens": tokens}
    store = compute_missing(
        tmp_path / "two", OneShard(), task.texts.spec, lambda _: arrays, "texts"
    )
    return replace(task, texts=store)


def test_the_held_out_cosine_counts_an_image_once(task):
    assert len(task.training) == 2 * (PICTURES - HELD_OUT)
    assert len(task.held_out()) == HELD_OUT
    expected = task.images.read("image")[:HELD_OUT].astype(np.float32)
    np.testing.assert_array_equal(task.held_out().image.numpy(), expected)
    assert not (task.held_out().text == 9).any()


def test_the_held_out_cosine_is_of_images_spread_over_all(task, monkeypatch):
    """Not of the first ones, which may be of one kind: sources and folders come in order."""
    monkeypatch.setattr("corgi_core.prior.task.HELD_OUT_CAPTIONS", 4)
    expected = task.images.read("image")[[0, 3, 6, 9]].astype(np.float32)
    np.testing.assert_array_equal(task.held_out().image.numpy(), expected)
    with torch.no_grad():
        assert -1 <= task.evaluate(task.build())["held_out_cosine"] <= 1


def test_a_finished_run_has_the_file_of_the_models_folder_and_is_read_again(task, tmp_path):
    run = tmp_path / "run"
    trained = train(task, replace(TRAINING, steps=2), run).model
    prior = PriorModel(trained, task.bank, task.settings, task.texts.spec, card={})
    prior.save(tmp_path / "model")
    stored = published(tmp_path / "model") / "model.safetensors"
    assert (run / "final.safetensors").read_bytes() == stored.read_bytes()
    assert PriorModel.load(tmp_path / "model").digest == prior.digest
    earlier = task.build()  # of a run that Corgi 0.1 has finished
    task.restore(earlier, trained.state_dict())
    for again in (train(task, replace(TRAINING, steps=2), run).model, earlier):
        for name, tensor in again.state_dict().items():
            assert torch.equal(tensor, trained.state_dict()[name])
