"""What every decoder's training shares."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corgi_core.data import balance
from corgi_core.decoders.task import perturbed_embeddings
from corgi_core.encoders.similarity import cosine_by_encoder, scale_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.training.run_folder import prepare_run_folder
from tests.helpers.shapes import SHAPES, TINY, a_task


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
    counts = torch.bincount(task.order, minlength=SHAPES)
    assert torch.equal(counts, task.repeats.long())
    for shard in task.embeddings.folder.glob("*.safetensors"):
        shard.unlink()  # nobody can look for twins again
    other.prepare_data(run)
    assert torch.equal(other.order, task.order)
    with pytest.raises(CorgiError, match="damaged"):
        replace(other, train_keys=other.train_keys[:9]).prepare_data(run)


def test_without_balance_every_image_is_used_once(tmp_path: Path) -> None:
    task = a_task(tmp_path, replace(TINY, balanced=False))
    assert task.order.tolist() == list(range(SHAPES))
