"""What every decoder's training shares."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from corgi_core.data import balance
from corgi_core.data.keys import ListedKeys
from corgi_core.decoders.pca.task import PCATask
from corgi_core.decoders.task import perturbed_embeddings
from corgi_core.encoders.similarity import cosine_by_encoder, scale_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.training.run_folder import prepare_run_folder
from tests.helpers.shapes import SHAPES, TINY, a_task, keys_of, pictures_of


def picture_number(task: PCATask, row: int) -> Tensor:
    """The number of the picture that a training row is, long [1]."""
    found = task.pictures(task.training, torch.tensor([row])).pixels.flatten(1).float()
    return torch.cdist(found, pictures_of(task).flatten(1).float()).argmin(dim=1)


def test_a_perturbed_embeddings_is_at_the_cosine_asked_for() -> None:
    encoder_dims = (300, 700)
    z = scale_per_encoder(torch.randn(400, 1000), encoder_dims)
    cosine = torch.linspace(0, 1, 400)
    perturbed = perturbed_embeddings(z, cosine, torch.randn(400, 1000), encoder_dims)
    torch.testing.assert_close(perturbed, scale_per_encoder(perturbed, encoder_dims))
    found = cosine_by_encoder(perturbed, z, encoder_dims)
    assert (found - cosine.unsqueeze(1)).abs().mean() < 0.04
    torch.testing.assert_close(perturbed[-1], z[-1])


def test_twins_are_looked_for_by_one_worker_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balance, "TWIN_COSINE", 0.4)  # random embeddings are no nearer twins
    task, run = a_task(tmp_path), tmp_path / "run"
    other = pickle.loads(pickle.dumps(task))
    prepare_run_folder(task, TINY.training, run, workers=2)
    assert len(set(task.repeats.tolist())) > 1
    order = torch.cat([picture_number(task, row) for row in range(task.rows)])
    assert torch.bincount(order, minlength=SHAPES).tolist() == task.repeats.tolist()
    for shard in task.embeddings.folder.glob("*.safetensors"):
        shard.unlink()  # nobody can look for twins again
    other.prepare_data(run)
    assert other.repeats.tolist() == task.repeats.tolist()
    assert other.shard_rows == task.shard_rows
    with pytest.raises(CorgiError, match="is not there any more"):
        replace(other, train_keys=ListedKeys(tuple(keys_of(task)[:9]))).prepare_data(run)


def test_without_balance_every_image_is_used_once(tmp_path: Path) -> None:
    task = a_task(tmp_path, replace(TINY, balanced=False))
    assert task.rows == task.image_count == SHAPES
    assert torch.equal(task.pictures(task.training, torch.arange(SHAPES)).pixels, pictures_of(task))


def test_statistics_are_those_of_evenly_spaced_images_where_there_are_many(tmp_path, monkeypatch):
    task = a_task(tmp_path)
    (z,) = task.images.gather(torch.arange(len(task.images)), (task.embeddings, "image"))
    every = z.float()
    assert torch.equal(task.spaced_embeddings, every)
    monkeypatch.setattr("corgi_core.decoders.task.SPACED", 4)
    assert torch.equal(task.spaced_embeddings, every[[0, 5, 10, 15]])
