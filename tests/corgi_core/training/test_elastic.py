"""The same samples in the same order at 1, 2 and 7 workers, and across three kills mid-epoch."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from corgi_core.config import TrainingSettings
from corgi_core.prior.task import CaptionBatch, PriorTask
from corgi_core.training import loading
from corgi_core.training.checkpoint import newest_step
from corgi_core.training.loading import batches
from corgi_core.training.loop import train
from corgi_core.training.metrics_log import read_metrics
from tests.helpers import processes
from tests.helpers.tiny import SETTINGS, TinyTask, same
from tests.helpers.tiny_prior import TRAINING, made_prior

BATCH, ROWS, CPU = 28, 50, torch.device("cpu")
STREAMING = replace(TRAINING, batch_size=BATCH, shuffle_window=16)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> PriorTask:
    """Fifty captions in eight shards; a window holds two to three of them."""
    return made_prior(tmp_path_factory.mktemp("prior"), shards=8)


def samples(
    task: PriorTask, settings: TrainingSettings, workers: int, first: int, steps: int
) -> list[Tensor]:
    """Image embeddings of each step, put together from what the loaders of all workers read."""
    chunks = settings.accumulation
    by_worker: list[list[CaptionBatch]] = []
    for rank in range(workers):
        loader = batches(task, settings, rank, workers, CPU, first)
        by_worker.append(list(islice(loader, steps * chunks)))
        loader.close()
    return [
        torch.cat([b.image for worker in by_worker for b in worker[s * chunks : (s + 1) * chunks]])
        for s in range(steps)
    ]


@pytest.mark.parametrize(("workers", "chunks"), [(2, 1), (7, 1), (1, 4), (7, 2)])
def test_any_number_of_workers_reads_the_same_samples_in_the_same_order(
    task: PriorTask, workers: int, chunks: int
) -> None:
    alone = samples(task, STREAMING, 1, 0, 8)
    settings = replace(STREAMING, accumulation=chunks)
    for ours, expected in zip(samples(task, settings, workers, 0, 8), alone, strict=True):
        assert torch.equal(ours, expected)
    images = torch.cat(alone)[: 4 * ROWS].view(4, ROWS, -1)
    own = {tuple(row) for row in images[0].tolist()}
    assert len(own) == ROWS
    assert all({tuple(row) for row in epoch.tolist()} == own for epoch in images)
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_a_run_goes_on_in_the_middle_of_an_epoch_on_other_workers(
    task: PriorTask, workers: int
) -> None:
    """Three kills: 3 steps on one number of workers, 2 on another, 1 and the rest."""
    alone = samples(task, STREAMING, 1, 0, 9)
    first = 0
    for steps, others in ((3, 7), (2, 1), (1, 2), (3, workers)):
        found = samples(task, STREAMING, others, first, steps)
        for ours, expected in zip(found, alone[first : first + steps], strict=True):
            assert torch.equal(ours, expected)
        first += steps
    assert first * BATCH % ROWS  # in the middle


@pytest.mark.integration  # starts processes
def test_a_prior_killed_three_times_in_the_middle_of_epochs_ends_with_the_same_bits(
    task: PriorTask, tmp_path: Path, one_thread: None
) -> None:
    settings = replace(STREAMING, steps=60, checkpoint_every=1, evaluate_every=60)
    killed_at: list[int] = []
    while len(killed_at) < 3:
        (process,) = processes.start(task, settings, tmp_path / "killed")
        wanted = (killed_at[-1] if killed_at else 0) + 5
        while newest_step(tmp_path / "killed") < wanted and process.is_alive():
            time.sleep(0.01)
        assert process.is_alive()
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        killed_at.append(newest_step(tmp_path / "killed"))
    assert any(step * BATCH % ROWS for step in killed_at)
    processes.run(task, settings, tmp_path / "killed")
    killed = train(task, settings, tmp_path / "killed")
    straight = train(task, settings, tmp_path / "straight")
    assert killed.already_finished
    assert same(killed.model, straight.model)
    losses = [[entry["loss"] for entry in read_metrics(each.metrics_log)][-1:] for each in
              (killed, straight)]  # fmt: skip
    assert losses[0] == losses[1]


def test_what_is_read_ahead_is_what_is_read_in_turn_and_no_thread_is_left(
    task: PriorTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a GPU, but without one: pinning memory needs it."""
    monkeypatch.setattr(loading, "pinned", lambda batch: batch)
    monkeypatch.setattr(loading, "moved", lambda batch, device: batch)
    before = threading.active_count()
    ahead = batches(task, STREAMING, 0, 1, torch.device("cuda"), 2)
    found = [batch.image for batch in islice(ahead, 6)]
    assert threading.active_count() > before
    ahead.close()
    assert threading.active_count() == before
    for ours, expected in zip(found, samples(task, STREAMING, 1, 2, 6), strict=True):
        assert torch.equal(ours, expected)


class Interrupted(TinyTask):
    """Ctrl-C in the middle of a step."""

    def loss(self, model, batch, random):  # type: ignore[no-untyped-def]
        if random.step == 5:
            raise KeyboardInterrupt
        return super().loss(model, batch, random)


def test_an_interrupted_training_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader reads ahead here, as it does for a GPU."""
    real = loading.batches

    def ahead(task, settings, rank, world_size, device, first):  # type: ignore[no-untyped-def]
        return real(task, settings, rank, world_size, torch.device("cuda"), first)

    monkeypatch.setattr("corgi_core.training.gradient.batches", ahead)
    monkeypatch.setattr(loading, "pinned", lambda batch: batch)
    monkeypatch.setattr(loading, "moved", lambda batch, device: batch)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt) as interruption:
        train(Interrupted(), SETTINGS, tmp_path)
    assert interruption.value is not None  # its traceback holds the loop's frames
    assert threading.active_count() == before
