"""Trainings whose images are decoded meanwhile end with the bits of those that read them stored."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from corgi_core.data.dataset import Dataset
from corgi_core.data.image_index import ImageIndex
from corgi_core.decoders.cascade.task import CascadeTask
from corgi_core.errors import CorgiError
from corgi_core.training.checkpoint import newest_step
from corgi_core.training.loading import batches, loader_processes
from corgi_core.training.loop import train
from tests.helpers import processes
from tests.helpers.cascades import TINY_CASCADE
from tests.helpers.shapes import SHAPES, SIDE, a_task
from tests.helpers.tiny import same

CPU = torch.device("cpu")
BATCH = 14  # of 16 images
TRAINING = replace(TINY_CASCADE.training, steps=4, batch_size=BATCH, evaluate_every=4)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> CascadeTask:
    """A cascade's first stage, of 8 pixels; what is stored has 16."""
    task = a_task(tmp_path_factory.mktemp("shapes"))
    return CascadeTask(
        TINY_CASCADE, task.pixels, task.embeddings, task.train_keys, task.validation_keys
    )


@pytest.fixture(scope="module")
def online(stored: CascadeTask) -> CascadeTask:
    """The same, but what is stored is where the images lie."""
    folder = stored.pixels.folder.parent
    images = Dataset.load(folder / "images")
    index = ImageIndex(images, SIDE).run(folder / "index", "cpu", threads=1)
    return replace(stored, pixels=index, dataset=images)


def samples(task: CascadeTask, workers: int, first: int, steps: int) -> list[Tensor]:
    """The pixels of each step, put together from what the loaders of all workers read."""
    by_worker = []
    for rank in range(workers):
        loader = batches(task, TRAINING, rank, workers, CPU, first)
        by_worker.append([batch.pixels for batch in islice(loader, steps)])
        loader.close()
    return [torch.cat(parts) for parts in zip(*by_worker, strict=True)]


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_any_number_of_workers_decodes_the_same_samples_in_the_same_order(
    stored: CascadeTask, online: CascadeTask, workers: int
) -> None:
    expected = samples(stored, 1, 1, 3)
    for ours, theirs in zip(samples(online, workers, 1, 3), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.integration  # trains, and starts processes
def test_weights_are_the_same_also_after_a_kill_in_the_middle_of_an_epoch(
    stored: CascadeTask, online: CascadeTask, tmp_path: Path, one_thread: None
) -> None:
    processes.start_server()
    straight = train(stored, TRAINING, tmp_path / "stored")
    decoding = replace(TRAINING, loader_processes=2)
    ahead = train(online, decoding, tmp_path / "online")
    assert same(ahead.model, straight.model)
    assert ahead.metrics == straight.metrics
    saving = replace(decoding, checkpoint_every=1)
    alone = replace(saving, loader_processes=0)
    (process,) = processes.start(online, alone, tmp_path / "killed")
    while not newest_step(tmp_path / "killed") and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert newest_step(tmp_path / "killed") * BATCH % SHAPES
    killed = train(online, saving, tmp_path / "killed")
    assert same(killed.model, straight.model)


def test_a_damaged_image_ends_the_training_with_its_name(
    online: CascadeTask, tmp_path: Path
) -> None:
    task = a_task(tmp_path / "shapes")
    images = Dataset.load(tmp_path / "shapes" / "images")
    index = ImageIndex(images, SIDE).run(tmp_path / "index", "cpu", threads=1)
    start, size = images.ranges(images.shards[0])[5]
    with images.tar(images.shards[0]).open("r+b") as tar:
        tar.seek(start + size // 2)
        tar.write(b"damaged")
    damaged = replace(
        online, pixels=index, dataset=images, embeddings=task.embeddings,
        train_keys=task.train_keys, validation_keys=task.validation_keys,
    )  # fmt: skip
    with pytest.raises(CorgiError, match=r"image '05' of shard 00000.*damaged"):
        train(damaged, TRAINING, tmp_path / "run")


def test_a_gpus_worker_has_processes_and_a_cpus_has_none(one_thread: None) -> None:
    assert loader_processes(TRAINING, CPU) == 0
    assert loader_processes(TRAINING, torch.device("cuda")) == 1
    assert loader_processes(replace(TRAINING, loader_processes=3), CPU) == 3
