"""A cascade's training: stage after stage, resumed, on two workers, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corgi_core.config import PRESETS, StageSettings, preset_named
from corgi_core.data.keys import ListedKeys
from corgi_core.decoders.cascade.checks import check_cascade
from corgi_core.decoders.cascade.crops import cropped
from corgi_core.decoders.cascade.network import downsampled, upsampled
from corgi_core.decoders.cascade.task import CascadeTask
from corgi_core.decoders.decoder import signed
from corgi_core.decoders.registry import decoder_task
from corgi_core.decoders.task import FineTuning
from corgi_core.training.loop import train
from corgi_core.training.randomness import StepRandom
from tests.helpers import processes
from tests.helpers.cascades import TINY_CASCADE, a_cascade_task, altered
from tests.helpers.losses import loss_of
from tests.helpers.shapes import SHAPES, keys_of
from tests.helpers.stopping import StoppedError, stopping
from tests.helpers.tiny import same

pytestmark = pytest.mark.integration  # trains, or starts processes, for seconds


@pytest.fixture(scope="module")
def cascade_task(tmp_path_factory: pytest.TempPathFactory) -> CascadeTask:
    return a_cascade_task(tmp_path_factory.mktemp("cascade"))


def test_a_resumed_stage_is_the_uninterrupted_one(
    cascade_task: CascadeTask, tmp_path: Path
) -> None:
    training = replace(TINY_CASCADE.training, steps=8, checkpoint_every=2)
    fields = (cascade_task.pixels, cascade_task.embeddings, cascade_task.train_keys, ListedKeys(()))
    settings = altered(training=training, perturbed=0.5)
    stopped = stopping(CascadeTask, at=5)(settings, *fields, stage=1)
    with pytest.raises(StoppedError):
        train(stopped, training, tmp_path / "stopped")
    task = CascadeTask(settings, *fields, stage=1)
    resumed = train(task, training, tmp_path / "stopped").model
    straight = train(task, training, tmp_path / "straight").model
    assert same(resumed, straight)


def test_a_stages_own_training_replaces_the_cascades(cascade_task: CascadeTask) -> None:
    first, second = TINY_CASCADE.stages
    own = replace(second, steps=7, batch_size=4, learning_rate=0.5, accumulation=2)
    settings = altered(stages=(first, own))
    parts = replace(cascade_task, settings=settings).parts()
    found = [part.training_settings for part in parts.values()]
    expected = replace(
        TINY_CASCADE.training, steps=7, batch_size=4, learning_rate=0.5, accumulation=2
    )
    assert found == [TINY_CASCADE.training, expected]
    tuned = settings.shortened(0.5)
    assert [tuned.training_of(n).steps for n in (0, 1)] == [TINY_CASCADE.training.steps // 2, 4]
    assert [tuned.training_of(n).learning_rate for n in (0, 1)] == [4e-3, 0.25]


def test_the_stages_continue_from_those_of_a_decoder(cascade_task: CascadeTask) -> None:
    torch.manual_seed(1)
    models = [part.build().eval() for part in cascade_task.parts().values()]
    start = cascade_task.assembled(models, {})
    tuning = FineTuning(start, ListedKeys(tuple(keys_of(cascade_task)[:3])))
    further = replace(cascade_task, tuning=tuning).parts().values()
    for model, part in zip(models, further, strict=True):
        fresh = part.build()
        part.prepare(fresh)
        assert same(fresh, model)


def test_the_halves_of_a_batch_lose_what_the_whole_does(cascade_task: CascadeTask) -> None:
    torch.manual_seed(0)
    perturbed = replace(cascade_task, settings=altered(perturbed=0.5), stage=1)
    network, rows = perturbed.build().eval(), torch.arange(SHAPES)
    whole = loss_of(perturbed, network, rows, StepRandom(0, 7, SHAPES))["loss"]
    halves = [
        loss_of(perturbed, network, rows.chunk(2)[rank], StepRandom(0, 7, SHAPES, rank, 2))["loss"]
        for rank in (0, 1)
    ]
    torch.testing.assert_close(whole, (halves[0] + halves[1]) / 2)


def test_two_workers_learn_what_one_does(cascade_task: CascadeTask, tmp_path: Path) -> None:
    """Two processes that average their gradients, against one."""
    training = replace(TINY_CASCADE.training, steps=2, evaluate_every=2)
    settings = altered(training=training, perturbed=0.5)
    task = replace(cascade_task, settings=settings, validation_keys=ListedKeys(()), stage=1)
    processes.run(task, training, tmp_path / "two", workers=2)
    two, one = (train(task, training, tmp_path / name) for name in ("two", "one"))
    assert two.already_finished
    torch.manual_seed(training.seed)
    start = task.build().state_dict()
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], tensor, atol=1e-4, rtol=1e-3)
    moved = [
        (tensor - start[name]).abs().max()
        for name, tensor in one.model.state_dict().items()
        if tensor.is_floating_point() and "whitening" not in name
    ]
    assert max(moved) > 5e-4  # what two steps of the warm-up do
    assert two.metrics["loss"] == pytest.approx(one.metrics["loss"], rel=1e-3)


def with_crop(crop: int, stage: int = 1) -> tuple[StageSettings, ...]:
    """The tiny cascade's stages, of 8 and 16 pixels, one of which is trained on crops."""
    stages = list(TINY_CASCADE.stages)
    stages[stage] = replace(stages[stage], crop=crop)
    return tuple(stages)


def test_a_crop_is_the_square_at_its_corner() -> None:
    images = torch.randn(3, 2, 9, 9)
    corners = torch.tensor([[0, 0], [4, 1], [5, 5]])
    found = cropped(images, corners, 4)
    for image, (row, column), square in zip(images, corners.tolist(), found, strict=True):
        assert torch.equal(square, image[:, row : row + 4, column : column + 4])


class Watched(torch.nn.Module):
    """Predicts nothing, and keeps what the stage is given."""

    def forward(self, x, t, level, z, cond_mask, text):  # type: ignore[no-untyped-def]
        self.inputs = x
        return x[:, :3] * 0


def test_a_stage_is_trained_on_the_same_square_of_both_images(cascade_task: CascadeTask) -> None:
    """Without noise: the square of the smaller image is the one under that of the larger."""
    settings = altered(stages=with_crop(4), condition_noise=0.0, prediction="x0")
    task, network = replace(cascade_task, settings=settings, stage=1), Watched()
    loss = loss_of(task, network, torch.arange(SHAPES), StepRandom(0, 3, SHAPES))["loss"]
    second = network.inputs
    assert second.shape[1:] == (6, 4, 4)
    assert loss > 0
    images = signed(task.pictures(task.training, torch.arange(SHAPES)).pixels)
    under = upsampled(downsampled(images, 8), 16)
    found = []
    for number, square in enumerate(second[:, 3:]):
        windows = under[number].unfold(1, 4, 1).unfold(2, 4, 1)  # [3, 13, 13, 4, 4]
        errors = (windows - square[:, None, None]).abs().amax(dim=(0, 3, 4))
        assert errors.min() < 1e-6
        found += torch.argwhere(errors == errors.min())[:1].tolist()
    assert len({tuple(corner) for corner in found}) > 4  # another square of each image


def test_halves_of_a_batch_have_the_whole_batchs_crops(cascade_task: CascadeTask) -> None:
    torch.manual_seed(0)
    task = replace(cascade_task, settings=altered(stages=with_crop(8)), stage=1)
    network, rows = task.build().eval(), torch.arange(SHAPES)
    whole = loss_of(task, network, rows, StepRandom(0, 7, SHAPES))
    halves = [
        loss_of(task, network, rows.chunk(2)[rank], StepRandom(0, 7, SHAPES, rank, 2))
        for rank in (0, 1)
    ]
    for name, loss in whole.items():
        torch.testing.assert_close(loss, (halves[0][name] + halves[1][name]) / 2)


def stages_of(
    *sizes: int, channels: tuple[int, ...] = (8, 16), attention_levels: int = 0
) -> object:
    return tuple(
        StageSettings(
            size=size, channels=channels, layers=1, noise_shift=0.0,
            attention_levels=attention_levels,
        )
        for size in sizes
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stages": ()}, "image_size"),
        ({"stages": stages_of(4, 8)}, "image_size"),
        ({"stages": stages_of(16, 16)}, "cannot follow"),
        ({"stages": stages_of(32, 16)}, "cannot follow"),
        ({"stages": stages_of(6, 16)}, "cannot follow"),
        ({"stages": stages_of(1, 16)}, "multiple of 2|halves"),
        ({"stages": stages_of(16, channels=(8,) * 6)}, "halves"),
        ({"stages": stages_of(16, channels=(12,))}, "channels"),
        ({"stages": stages_of(16, channels=())}, "channels"),
        ({"stages": stages_of(16, attention_levels=3)}, "attend"),
        ({"stages": with_crop(4, stage=0)}, "first stage .* cannot be trained on crops"),
        ({"stages": with_crop(32)}, "16 pixels cannot be trained on crops of 32"),
        ({"stages": with_crop(5)}, "crop is 5"),
        ({"tile": 9, "overlap": 2}, "tile is 9"),
        ({"tile": 8, "overlap": 3}, "overlap is 3"),
        ({"tile": 8, "overlap": 6}, "overlap"),
        ({"prediction": "noise"}, "predict"),
        ({"condition_noise": 1.5}, "condition_noise"),
        ({"sampling_noise": -0.1}, "sampling_noise"),
    ],
)
def test_impossible_settings_are_refused(
    cascade_task: CascadeTask, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(ValueError, match=says):  # CorgiError, or the schema's bounds
        replace(cascade_task, settings=altered(**changes))


def test_the_presets_cascades_are_possible() -> None:
    found = [kind for name in PRESETS for kind in preset_named(name).decoders]
    cascades = [settings for settings in found if settings.kind == "cascade"]
    assert len(cascades) == 4
    for settings in cascades:
        check_cascade(settings)


def test_it_is_a_kind_of_decoder_by_name(cascade_task: CascadeTask) -> None:
    fields = ("pixels", "embeddings", "train_keys", "validation_keys")
    inputs = {name: getattr(cascade_task, name) for name in fields}
    found = decoder_task(cascade_task.settings, None, **inputs)
    assert isinstance(found, CascadeTask)
    assert found.settings == TINY_CASCADE
