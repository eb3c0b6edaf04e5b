"""A prior goes on from another one: its weights, the training's identity, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.prior.model import PriorModel
from corgi_core.prior.task import PriorTask
from corgi_core.training.identity import identity_of
from corgi_core.training.loop import train
from tests.helpers.tiny_prior import SETTINGS, TRAINING, made_prior


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> PriorTask:
    return made_prior(tmp_path_factory.mktemp("prior"))


@pytest.fixture(scope="module")
def parent(task: PriorTask) -> PriorModel:
    torch.manual_seed(5)
    network = task.build()
    torch.nn.init.normal_(network.gaussian.weight)
    return PriorModel(network.eval(), task.bank, task.settings, task.texts.spec, card={})


def test_it_starts_where_its_parent_is_and_then_learns(
    task: PriorTask, parent: PriorModel, tmp_path: Path
) -> None:
    further, there = replace(task, parent=parent), parent.network.state_dict()
    model = further.build()
    further.prepare(model)
    assert all(torch.equal(tensor, there[name]) for name, tensor in model.state_dict().items())
    still = replace(TRAINING, steps=2, learning_rate=0.0, weight_decay=0.0)
    frozen = train(further, still, tmp_path / "still").model.state_dict()
    assert all(torch.equal(tensor, there[name]) for name, tensor in frozen.items())
    learned = train(further, replace(TRAINING, steps=2), tmp_path / "run").model.state_dict()
    assert any(not torch.equal(tensor, there[name]) for name, tensor in learned.items())


def test_gaussians_in_another_order_and_number_start_as_the_nearest(
    task: PriorTask, parent: PriorModel
) -> None:
    means = torch.stack([task.bank.means[1] + 0.01, task.bank.means[0], task.bank.means[1] - 0.01])
    bank = GaussianBank(means, torch.ones_like(means), torch.ones(3), task.bank.encoder_dims, 1.0)
    further = replace(task, bank=bank, parent=parent)
    model = further.build()
    further.prepare(model)
    before = parent.network.gaussian.weight
    torch.testing.assert_close(model.gaussian.weight, before[[1, 0, 1]])


def test_the_parent_names_the_training(task: PriorTask, parent: PriorModel) -> None:
    alone, further = (identity_of(each, TRAINING) for each in (task, replace(task, parent=parent)))
    assert further == alone | {"task.parent": parent.digest}
    assert alone != further


def test_a_parent_of_another_architecture_encoder_or_text_is_refused_by_name(
    task: PriorTask, parent: PriorModel, tmp_path: Path
) -> None:
    wide = replace(SETTINGS, width=64)
    others = [
        (made_prior(tmp_path / "wide", wide), "has the width 32, wanted is 64"),
        (made_prior(tmp_path / "text", text_width=20), "has the text_width 12, wanted is 20"),
    ]
    for other, problem in others:
        with pytest.raises(CorgiError, match=problem):
            replace(other, parent=parent)
    encoders = {**parent.encoders, "encoder": "another-clip"}
    of_other_clip = PriorModel(parent.network, parent.bank, parent.settings, encoders, card={})
    with pytest.raises(CorgiError, match="encoder another-clip, wanted is made"):
        replace(task, parent=of_other_clip)
