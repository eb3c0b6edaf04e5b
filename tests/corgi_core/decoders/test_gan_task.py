"""A GAN's training: resumed, on two workers, through CLIP, and what is refused."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from corgi_core.data.pixels import pixels
from corgi_core.decoders.gan.network import GanNetwork
from corgi_core.decoders.gan.task import GanTask
from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.errors import CorgiError
from corgi_core.training.identity import identity_of
from corgi_core.training.loop import train
from corgi_core.training.randomness import StepRandom
from tests.helpers.gan_shapes import TINY, a_gan_task, tiny_clip
from tests.helpers.losses import loss_of
from tests.helpers.processes import run_each
from tests.helpers.shapes import write_shapes
from tests.helpers.stopping import StoppedError, stopping

pytestmark = pytest.mark.integration  # trains, or starts processes, for seconds

BATCH = TINY.training.batch_size


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> GanTask:
    return a_gan_task(tmp_path_factory.mktemp("gan"))


def gradients(task: GanTask, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    """Of a step with all penalties, and what has been adapted after it."""
    torch.manual_seed(0)
    model = task.build()
    for name, parameter in model.named_parameters():
        if name.endswith("strength"):
            torch.nn.init.constant_(parameter, 0.3)
    model.augment.p.fill_(0.5)
    network = model if world == 1 else DistributedDataParallel(model)
    rows = torch.arange(BATCH).chunk(world)[rank]
    loss_of(task, network, rows, StepRandom(0, 0, BATCH, rank, world))["loss"].backward()
    found = {name: p.grad.contiguous() for name, p in model.named_parameters()}
    return found | {name: b.clone() for name, b in model.named_buffers()}


def worker(rank: int, task: GanTask, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    save_file(gradients(task, rank, 2), f"{folder}/{rank}.safetensors")
    torch.distributed.destroy_process_group()


def test_two_workers_have_the_gradients_of_the_whole_batch(task: GanTask, tmp_path: Path) -> None:
    """Pictures are compared in groups that no worker shares, by CLIP with all of the batch."""
    run_each(worker, task, str(tmp_path))
    alone = gradients(task)
    assert alone["augment.p"] != 0.5
    assert alone["path_length.mean"] > 0
    for rank in (0, 1):
        together = load_file(tmp_path / f"{rank}.safetensors")
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, atol=1e-5, rtol=1e-3, msg=name)


def test_clip_teaches_the_generator_and_learns_nothing(task: GanTask) -> None:
    """Followed for some steps, its gradient brings generated pictures near their embeddings."""
    torch.manual_seed(0)
    model = task.build()
    z = task.spaced_embeddings[:BATCH]
    latent = torch.randn(BATCH, task.shape.latent_width)
    before = {name: p.clone() for name, p in task.clip.named_parameters()}
    optimizer = torch.optim.Adam(model.generator.parameters(), lr=5e-3)
    cosines = []
    for _ in range(30):
        embedded = task.clip.encode_images_with_grad((model.generator(z, latent) + 1) / 2)
        loss = task._contrast(embedded, z)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        others = mean_encoder_cosine(embedded, z.roll(1, 0), task.encoder_dims)
        cosines.append((mean_encoder_cosine(embedded, z, task.encoder_dims) - others).mean().item())
    assert cosines[-1] > cosines[0] + 0.1
    for name, parameter in task.clip.named_parameters():
        assert parameter.grad is None, name
        assert torch.equal(parameter, before[name]), name
    assert not task.clip.encode_images(torch.rand(1, 3, 16, 16, requires_grad=True)).requires_grad


def test_penalties_are_taken_at_their_steps(task: GanTask) -> None:
    rare = replace(task, settings=replace(TINY, r1_interval=6, path_interval=4))
    torch.manual_seed(0)
    model = rare.build()
    for step in range(13):
        losses = loss_of(rare, model, torch.arange(BATCH), StepRandom(0, step, BATCH))
        assert (losses["r1"] > 0) == (step % 6 == 0)
        assert (losses["path"] > 0) == (step % 4 == 0)


def test_a_resumed_gan_is_the_uninterrupted_one(task: GanTask, tmp_path: Path) -> None:
    """The discriminator, p and the mean path length come with the checkpoint."""
    fields = (
        replace(TINY, augment_pictures=100), task.pixels, task.embeddings, task.train_keys,
        task.validation_keys, task.clip,
    )  # fmt: skip
    with pytest.raises(StoppedError):
        train(stopping(GanTask, at=9)(*fields), TINY.training, tmp_path / "stopped")
    resumed = train(GanTask(*fields), TINY.training, tmp_path / "stopped")
    straight = train(GanTask(*fields), TINY.training, tmp_path / "straight")
    assert isinstance(straight.model, GanNetwork)
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    assert resumed.metrics == straight.metrics
    assert -1 <= straight.metrics["held_out_similarity"] <= 1
    assert straight.metrics["held_out_pixel_error"] > 0


def test_a_task_travels_to_a_worker_as_the_same_training(task: GanTask) -> None:
    there = pickle.loads(pickle.dumps(task))
    assert identity_of(there, TINY.training) == identity_of(task, TINY.training)
    assert identity_of(task, TINY.training)["task.clip"] == task.clip.digest
    rows, random = torch.arange(BATCH), StepRandom(0, 1, BATCH)
    torch.manual_seed(0)
    model = task.build()
    expected = loss_of(task, model, rows, random)["loss"]
    torch.testing.assert_close(
        loss_of(there, model, rows, StepRandom(0, 1, BATCH))["loss"], expected
    )


def test_what_cannot_be_trained_is_refused(task: GanTask, tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match="made by the CLIP encoders"):
        replace(task, clip=tiny_clip(seed=1))
    compiled = replace(TINY, training=replace(TINY.training, compile=True))
    with pytest.raises(CorgiError, match="cannot be compiled"):
        replace(task, settings=compiled)
    small = pixels(write_shapes(tmp_path), tmp_path / "pixels", 12)
    with pytest.raises(CorgiError, match="images of 12 pixels"):
        replace(task, pixels=small, settings=replace(TINY, image_size=12))
    with pytest.raises(CorgiError, match="6 images are no multiple of 4"):
        loss_of(task, task.build(), torch.arange(6), StepRandom(0, 0, 6))
    chunks = replace(TINY.training, accumulation=2)
    with pytest.raises(CorgiError, match="compares the samples"):
        train(task, chunks, tmp_path / "run")
