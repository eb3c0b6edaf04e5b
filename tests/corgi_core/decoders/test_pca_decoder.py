"""A trained decoder generates what its embeddings stand for, and refuses what it cannot decode."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from corgi_core.data.keys import ListedKeys
from corgi_core.decoders.pca.decoder import PCADecoder
from corgi_core.decoders.pca.network import PCANetwork
from corgi_core.decoders.pca.task import PCATask
from corgi_core.decoders.registry import load_decoder
from corgi_core.decoders.task import perturbed_embeddings
from corgi_core.errors import CorgiError
from corgi_core.io.files import read_json, write_json
from corgi_core.training.identity import identity_of
from corgi_core.training.loop import train
from corgi_core.training.randomness import StepRandom
from tests.helpers.losses import loss_of
from tests.helpers.shapes import (
    SHAPES,
    SIDE,
    TINY,
    WIDTH,
    a_task,
    embeddings_of,
    keys_of,
    pictures_of,
)
from tests.helpers.stopping import StoppedError, stopping

pytestmark = pytest.mark.integration  # trains, or starts processes, for seconds


@pytest.fixture(scope="module")
def z(task: PCATask) -> Tensor:
    return torch.from_numpy(embeddings_of(task))


def real_pictures(task: PCATask) -> Tensor:
    return pictures_of(task).float() / 255


def test_every_picture_is_nearest_to_its_own_original(
    decoder: PCADecoder, task: PCATask, z: Tensor
) -> None:
    decoded, real = decoder.decode(z).flatten(1), real_pictures(task).flatten(1)
    assert torch.equal(torch.cdist(decoded, real).argmin(dim=1), torch.arange(SHAPES))
    error = (decoded - real).square().mean().sqrt()
    assert error < 0.12, error  # the shapes themselves are this far apart: > 0.3 on average


def test_without_the_embedding_the_pictures_are_not_recognised(
    decoder: PCADecoder, task: PCATask, z: Tensor
) -> None:
    decoded, real = decoder.decode(z.roll(1, dims=0)).flatten(1), real_pictures(task).flatten(1)
    matches = torch.cdist(decoded, real).argmin(dim=1) == torch.arange(SHAPES)
    assert not matches.any()


def test_a_picture_depends_on_seed_and_number_only(decoder: PCADecoder, z: Tensor) -> None:
    many = decoder.decode(z.repeat(4, 1), seed=5)  # 48: more than one inner batch
    few = decoder.decode(z[:3], seed=5)
    torch.testing.assert_close(many[:3], few, atol=1e-4, rtol=0)
    again = decoder.decode(z.repeat(4, 1)[:40], seed=5)
    torch.testing.assert_close(many[:40], again, atol=1e-4, rtol=0)
    assert (decoder.decode(z[:3], seed=6) - few).abs().max() > 1e-3


def test_guidance_and_steps_change_the_picture_and_stay_in_range(
    decoder: PCADecoder, z: Tensor
) -> None:
    plain = decoder.decode(z[:2])
    for other in (decoder.decode(z[:2], guidance=2.0), decoder.decode(z[:2], num_steps=3)):
        assert other.min() >= 0
        assert other.max() <= 1
        assert (other - plain).abs().max() > 1e-4


def test_other_sizes_are_the_same_picture_resized(decoder: PCADecoder, z: Tensor) -> None:
    doubled = decoder.decode(z[:2], size=2 * SIDE)
    assert doubled.shape == (2, 3, 2 * SIDE, 2 * SIDE)
    back = torch.nn.functional.avg_pool2d(doubled, 2)
    assert (back - decoder.decode(z[:2])).abs().mean() < 0.05
    assert decoder.decode(z[:0]).shape == (0, 3, SIDE, SIDE)


def test_save_and_load_give_the_same_decoder(
    decoder: PCADecoder, z: Tensor, tmp_path: Path
) -> None:
    decoder.save(tmp_path / "decoder")
    loaded = load_decoder(tmp_path / "decoder")
    assert loaded.digest == decoder.digest
    assert loaded.encoders == decoder.encoders
    assert loaded.card == decoder.card
    assert loaded.settings == decoder.settings
    assert torch.equal(loaded.decode(z, seed=1), decoder.decode(z, seed=1))


def test_a_folder_whose_encoders_do_not_fit_is_refused(decoder: PCADecoder, tmp_path: Path) -> None:
    decoder.save(tmp_path / "decoder")
    path = tmp_path / "decoder" / "config.json"
    config = read_json(path)
    config["encoders"]["encoder_dims"] = [WIDTH + 1]
    write_json(path, config)
    with pytest.raises(CorgiError, match="encoder_dims"):
        load_decoder(tmp_path / "decoder")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": float("nan")}, "guidance"),
        ({"guidance": float("inf")}, "guidance"),
        ({"num_steps": 0}, "steps"),
        ({"num_steps": 1001}, "steps"),
        ({"size": 0}, "pixels"),
        ({"size": 100_000}, "pixels"),
    ],
)
def test_impossible_options_are_refused(
    decoder: PCADecoder, z: Tensor, options: dict[str, float], message: str
) -> None:
    with pytest.raises(CorgiError, match=message):
        decoder.decode(z[:1], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, WIDTH + 1), (WIDTH,), (1, 2, WIDTH)])
def test_embeddings_of_another_shape_are_refused(
    decoder: PCADecoder, shape: tuple[int, ...]
) -> None:
    with pytest.raises(CorgiError, match=f"needs \\[n, {WIDTH}\\]"):
        decoder.decode(torch.zeros(shape))


def test_guidance_needs_a_decoder_trained_for_it(decoder: PCADecoder, z: Tensor) -> None:
    without_dropout = replace(decoder.settings, cond_dropout=0.0)
    unguidable = PCADecoder(decoder.network, without_dropout, decoder.encoders, card={})
    with pytest.raises(CorgiError, match="dropout"):
        unguidable.decode(z[:1], guidance=2.0)


def test_pixels_of_another_size_are_refused(task: PCATask) -> None:
    with pytest.raises(CorgiError, match="image_size"):
        replace(task, settings=replace(TINY, image_size=32))


def test_more_components_than_pixels_are_refused(task: PCATask) -> None:
    with pytest.raises(CorgiError, match="no 769 components"):
        replace(task, settings=replace(TINY, components=769))


def test_two_workers_denoise_what_one_does(task: PCATask) -> None:
    """The mean of two workers' losses is one worker's loss on the whole batch."""
    torch.manual_seed(0)
    perturbed = replace(task, settings=replace(TINY, perturbed=0.5))
    network, rows = perturbed.build().eval(), torch.arange(SHAPES)
    torch.nn.init.normal_(network.to_coordinates.weight)
    whole = loss_of(perturbed, network, rows, StepRandom(0, 7, SHAPES))
    halves = [
        loss_of(perturbed, network, rows.chunk(2)[rank], StepRandom(0, 7, SHAPES, rank, 2))
        for rank in (0, 1)
    ]
    torch.testing.assert_close(whole["loss"], (halves[0]["loss"] + halves[1]["loss"]) / 2)


def test_a_decoder_trained_on_perturbed_embeddings_decodes_them_better(
    task: PCATask, decoder: PCADecoder, z: Tensor, tmp_path: Path
) -> None:
    """At a cosine of 0.6 to the true embeddings, against those that were trained on true ones."""
    perturbing = replace(task, settings=replace(TINY, perturbed=1.0, min_cosine=0.3))
    again = replace(TINY.training, seed=1)  # two trainings of each kind: one is too chancy
    met = [train(perturbing, each, tmp_path / f"met-{each.seed}").model
           for each in (TINY.training, again)]  # fmt: skip
    exact = [decoder.network, train(task, again, tmp_path / "exact").model]
    z, real = z.repeat(16, 1), real_pictures(task).repeat(16, 1, 1, 1)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(3))
    near = perturbed_embeddings(z, torch.full((len(z),), 0.6), noise, [WIDTH])

    def error(networks: list[PCANetwork]) -> float:
        decoders = (PCADecoder(network, TINY, decoder.encoders, {}) for network in networks)
        return float(sum((each.decode(near) - real).square().mean() for each in decoders))

    assert error(met) < 0.8 * error(exact)


def test_a_task_travels_to_a_worker_as_the_same_training(task: PCATask) -> None:
    assert task.rows >= SHAPES  # which is cached, and stays here
    sent = pickle.dumps(task)
    there = pickle.loads(sent)
    assert len(sent) < 10_000
    settings = task.settings.training
    assert identity_of(there, settings) == identity_of(task, settings)
    assert there.rows == task.rows


def test_a_resumed_decoder_is_the_uninterrupted_one(task: PCATask, tmp_path: Path) -> None:
    """Its components and whitening come with the checkpoint."""
    training = replace(TINY.training, steps=40, checkpoint_every=10)
    settings = replace(TINY, training=training)
    fields = (task.pixels, task.embeddings, task.train_keys, task.validation_keys)
    with pytest.raises(StoppedError):
        train(stopping(PCATask, at=25)(settings, *fields), training, tmp_path / "stopped")
    resumed = train(PCATask(settings, *fields), training, tmp_path / "stopped").model
    straight = train(PCATask(settings, *fields), training, tmp_path / "straight").model
    for name, tensor in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_the_order_in_which_keys_are_given_is_no_part_of_the_training(tmp_path: Path) -> None:
    task = a_task(tmp_path)
    shuffled = replace(task, train_keys=ListedKeys(tuple(reversed(keys_of(task)))))
    assert identity_of(shuffled, None) == identity_of(task, None)


def test_held_out_metrics_tell_a_trained_decoder_from_a_fresh_one(
    decoder: PCADecoder, task: PCATask
) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        fresh, trained = task.evaluate(task.build().eval()), task.evaluate(decoder.network)
    assert np.isfinite(list(trained.values())).all()
    assert trained["held_out_loss"] < fresh["held_out_loss"] / 3
    assert trained["held_out_pixel_error"] < fresh["held_out_pixel_error"] / 2
