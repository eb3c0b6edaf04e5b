"""Workers wait for the first one for longer than any collective would."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from corgi_core.errors import CorgiError
from corgi_core.training import waiting
from corgi_core.training.loop import train
from corgi_core.training.waiting import Meeting
from tests.helpers import processes
from tests.helpers.patience import PATIENCE
from tests.helpers.tiny import SETTINGS, TinyTask

pytestmark = pytest.mark.integration  # starts processes

SHORT = replace(SETTINGS, steps=4, evaluate_every=2)


def test_an_evaluation_may_take_longer_than_a_collective_waits(tmp_path: Path) -> None:
    """Two evaluations and the data's preparation, by one worker, take longer than that each."""
    task = TinyTask(plain=True, slow=1.8)
    started = processes.start(task, SHORT, tmp_path, workers=2, timeout=1.5)
    assert processes.finish(started) == [0, 0]
    assert train(task, SHORT, tmp_path).already_finished


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_share_an_evaluation_whose_bits_are_those_of_one(
    tmp_path: Path, workers: int
) -> None:
    """Their batch norms have seen other images, and the first worker's are saved."""
    task = TinyTask()
    processes.run(task, SHORT, tmp_path, workers=workers)
    result = train(task, SHORT, tmp_path)
    assert result.metrics["held_out"] == task.evaluate(result.model)["held_out"]


def share_chunks(rank: int, port: int, folder: Path) -> None:
    processes.join_group(rank, 2, port, timeout=20)
    done = list[int]()

    def square(chunk: int) -> int:
        done.append(chunk)
        return chunk**2

    values = Meeting(2, rank).each(square, range(5))
    (folder / str(rank)).write_text(f"{values} {done}")


def test_each_chunk_is_computed_by_one_worker_and_all_have_its_value(tmp_path: Path) -> None:
    port = processes.free_port()
    started = [
        processes.PROCESSES.Process(target=share_chunks, args=(rank, port, tmp_path))
        for rank in (0, 1)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=PATIENCE)
    squares = [0, 1, 4, 9, 16]
    assert (tmp_path / "0").read_text() == f"{squares} [0, 2, 4]"
    assert (tmp_path / "1").read_text() == f"{squares} [1, 3]"
    assert Meeting().each(lambda chunk: chunk**2, range(5)) == squares


def test_a_worker_that_dies_is_not_waited_for(tmp_path: Path) -> None:
    """The others do not wait for a dead worker: their wait ends, and Ray replaces it."""
    began = time.monotonic()
    task = TinyTask(plain=True, die_evaluating=True)
    started = processes.start(task, SHORT, tmp_path, workers=2)
    for process in started:
        process.join(timeout=PATIENCE)
    assert [process.exitcode for process in started] == [-9, 1]
    assert time.monotonic() - began < 30


def meet_late(rank: int, port: int, folder: Path) -> None:
    """The first of two workers comes a second later than the other waits for."""
    waiting.PATIENCE = timedelta(seconds=0.5)
    processes.join_group(rank, 2, port, timeout=20)
    meeting = Meeting(2)
    time.sleep(1.5 * (rank == 0))
    try:
        meeting.wait("evaluates after step 8")
    except CorgiError as refusal:
        (folder / str(rank)).write_text(str(refusal))


def test_the_refusal_says_what_was_waited_for(tmp_path: Path) -> None:
    port = processes.free_port()
    started = [
        processes.PROCESSES.Process(target=meet_late, args=(rank, port, tmp_path))
        for rank in (0, 1)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=PATIENCE)
    assert "the first one evaluates after step 8" in (tmp_path / "1").read_text()


def test_one_worker_waits_for_nobody() -> None:
    Meeting(world_size=1).wait("evaluates")
