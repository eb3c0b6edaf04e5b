"""A training's copy in a storage: what a worker on another node goes on from."""

from __future__ import annotations

import errno
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.training import nodes
from corgi_core.training.identity import identity_of
from corgi_core.training.loop import train
from corgi_core.training.metrics_log import read_metrics
from corgi_core.training.nodes import SharedRun, StoredRun
from corgi_core.training.run_folder import finished_training, prepare_run_folder
from tests.helpers.tiny import SETTINGS, TinyTask, same

TASK = TinyTask(slow=0.001)  # which prepares a file for all workers
IDENTITY = identity_of(TASK, SETTINGS)


class KilledError(Exception):
    """In place of a worker's death."""


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """The run folder of the driver, prepared."""
    (tmp_path / "driver").mkdir()
    return prepare_run_folder(TASK, SETTINGS, tmp_path / "driver", workers=1)


@pytest.fixture
def run(tmp_path: Path, driver: Path) -> StoredRun:
    stored = StoredRun(UPath(tmp_path / "storage"))
    stored.publish(driver, IDENTITY)
    return stored


def work(run: StoredRun, until: int | None = None) -> None:
    """Be a worker, which dies after it has stored its checkpoint of step `until`."""

    def saved(folder: Path) -> None:
        run.copy_progress(folder)
        if run.newest_step() == until:
            raise KilledError

    with run.opened(0) as folder:
        assert folder is not None
        train(TASK, SETTINGS, folder, on_saved=saved)


def test_a_worker_goes_on_where_one_on_another_node_died(
    run: StoredRun, driver: Path, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        work(run, until=30)
    assert run.newest_step() == 30
    with run.opened(0) as folder:
        assert folder is not None
        assert (folder / "prepared").exists()
        assert read_metrics(folder / "metrics.jsonl")[-1]["step"] == 30
    work(run)
    run.fetch_result(driver)
    result = finished_training(TASK, driver)
    straight = train(replace(TASK, slow=0.0), SETTINGS, tmp_path / "straight")
    assert result is not None
    assert same(result.model, straight.model)
    assert result.metrics == straight.metrics
    steps = [entry["step"] for entry in read_metrics(result.metrics_log)]
    assert steps == [10, 20, 30, 40, 50, 60]
    assert run.newest_step() == 0  # nothing is left but the result
    with run.opened(0) as folder:
        assert folder is None


def test_a_checkpoint_that_was_not_copied_whole_or_is_damaged_costs_its_steps_only(
    run: StoredRun,
) -> None:
    with pytest.raises(KilledError):
        work(run, until=30)
    checkpoints = run.folder / "checkpoints"
    shutil.copytree(str(checkpoints / "step-000030"), str(checkpoints / "step-000040"))
    (checkpoints / "step-000040" / "state.json").unlink()
    weights = checkpoints / "step-000030" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with run.opened(0) as folder:
        assert folder is not None
        assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000020"]
    assert run.newest_step() == 20


def test_a_node_without_room_for_a_checkpoint_does_no_harm_to_the_stored_one(
    run: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KilledError):
        work(run, until=30)

    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(nodes.shutil, "copyfileobj", full_disk)
        with pytest.raises(OSError, match="No space left"), run.opened(0):
            pass
    assert run.newest_step() == 30
    work(run)
    assert run.is_finished


def test_weights_that_are_damaged_here_are_fetched_again_and_in_the_storage_are_named(
    run: StoredRun, driver: Path
) -> None:
    work(run)
    run.fetch_result(driver)
    (driver / "final.safetensors").write_bytes(b"torn")
    run.fetch_result(driver)
    assert finished_training(TASK, driver) is not None
    (driver / "final.safetensors").unlink()
    (run.folder / "final.safetensors").write_bytes(b"torn")
    with pytest.raises(CorgiError, match=r"storage/final\.safetensors is damaged"):
        run.fetch_result(driver)


def test_a_storage_that_gives_no_reason_is_not_reached() -> None:
    class Silent:
        def __truediv__(self, name: str) -> Silent:
            return self

        def read_text(self, encoding: str) -> str:
            raise TimeoutError

    assert nodes._owner_differs(Silent(), "a nonce", patience=0.0) == "TimeoutError"


def test_a_driver_that_takes_the_training_over_stops_the_workers_of_the_one_before(
    run: StoredRun, driver: Path
) -> None:
    with pytest.raises(KilledError):
        work(run, until=20)
    other = StoredRun(run.folder)
    other.publish(driver, IDENTITY)
    with pytest.raises(CorgiError, match="another job has begun to train in"):
        work(run)
    work(other)
    assert other.is_finished


def test_a_storage_of_another_training_and_one_that_is_not_reached_are_refused(
    run: StoredRun, driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "PATIENCE", 0.0)
    with pytest.raises(CorgiError, match="belongs to another training"):
        run.publish(driver, identity_of(TASK, replace(SETTINGS, steps=70)))
    with pytest.raises(CorgiError, match=r"node 7 does not reach the training's storage .*other"):
        StoredRun(UPath(tmp_path / "other")).check_reached("node 7")
    with pytest.raises(CorgiError, match="node 7 does not share the run folder"):
        SharedRun(tmp_path / "other").check_reached("node 7")
    run.check_reached("node 7")


def test_the_driver_has_the_metrics_while_the_worker_trains(
    run: StoredRun, driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "COPIED_EVERY", 0.01)
    here = driver / "metrics.jsonl"

    def saved(folder: Path) -> None:
        """The worker waits until the driver has heard of its steps."""
        run.copy_progress(folder)
        while read_metrics(here)[-1:] != read_metrics(folder / "metrics.jsonl")[-1:]:
            time.sleep(0.01)

    with run.followed(driver), run.opened(0) as folder:
        assert folder is not None
        train(TASK, SETTINGS, folder, on_saved=saved)
    assert [entry["step"] for entry in read_metrics(here)] == [10, 20, 30, 40, 50, 60]


def test_a_storage_that_does_not_answer_for_a_while_costs_no_training(
    run: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "RETRY_AFTER", 0.01)
    copy, failures = nodes._copy, iter(range(3))

    def failing(source: Path, target: Path) -> None:
        if "step-000020" in str(target) and next(failures, None) is not None:
            raise ConnectionError("no answer")
        copy(source, target)

    monkeypatch.setattr(nodes, "_copy", failing)
    work(run)
    assert run.is_finished
    assert next(failures, None) is None
