"""A training that is killed, damaged or spread over workers ends where an undisturbed one does."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corgi_core.training.loop import train
from corgi_core.training.metrics_log import read_metrics
from corgi_core.training.run_folder import TrainingResult
from tests.helpers import processes
from tests.helpers.patience import PATIENCE
from tests.helpers.tiny import SETTINGS, TinyTask, same

pytestmark = pytest.mark.integration  # trains, or starts processes, for seconds

LOSSES = ("loss", "absolute", "held_out", "learning_rate")


def curve(result: TrainingResult) -> list[tuple[float, ...]]:
    return [
        (entry["step"], *(entry.get(name, -1.0) for name in LOSSES))
        for entry in read_metrics(result.metrics_log)
    ]


@pytest.mark.usefixtures("one_thread")
def test_sigkill_at_random_moments_changes_no_bit(tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=120)
    chance = random.Random(0)
    kills, codes = 0, []
    while not (tmp_path / "killed" / "finished.json").exists():
        (process,) = processes.start(TinyTask(pause=0.03), settings, tmp_path / "killed")
        if kills < 3:
            before = _last_step(tmp_path)
            while _last_step(tmp_path) in (-1, before) and process.is_alive():
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 0.6))
            process.kill()
            kills += 1
        process.join(PATIENCE)
        codes.append(process.exitcode)
    assert codes == [-signal.SIGKILL] * 3 + [0]
    killed = train(TinyTask(), settings, tmp_path / "killed")
    straight = train(TinyTask(), settings, tmp_path / "straight")
    assert killed.already_finished
    assert not straight.already_finished
    assert same(killed.model, straight.model)
    assert killed.metrics == straight.metrics
    assert curve(killed) == curve(straight)


def _last_step(folder: Path) -> int:
    entries = read_metrics(folder / "killed" / "metrics.jsonl")
    return entries[-1]["step"] if entries else -1


class StoppedError(Exception):
    """Stands for whatever ends a process."""


class StoppedTask(TinyTask):
    """Stops at a step by an exception, which leaves what a kill leaves."""

    def loss(self, model, batch, random):  # type: ignore[no-untyped-def]
        if random.step == 45:
            raise StoppedError
        return super().loss(model, batch, random)


StoppedTask.__qualname__ = TinyTask.__qualname__  # the same training


@pytest.mark.parametrize(
    "damage", ["truncate", "flip", "state", "no state", "missing", "half-written"]
)
@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, damage: str, damaged: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "damaged"
    with pytest.raises(StoppedError):
        train(StoppedTask(), SETTINGS, folder)
    checkpoints = sorted((folder / "checkpoints").iterdir(), reverse=True)
    assert [path.name for path in checkpoints] == ["step-000040", "step-000030"]
    for checkpoint in checkpoints[:damaged]:
        _damage(checkpoint, damage)
    result = train(TinyTask(), SETTINGS, folder)
    straight = train(TinyTask(), SETTINGS, tmp_path / "straight")
    assert same(result.model, straight.model)
    assert curve(result) == curve(straight)
    if damage != "half-written":
        assert caplog.text.count("is damaged") == damaged


class PreparedTask(TinyTask):
    """Its first bias is computed from the data, not learned from zero."""

    def prepare(self, model: torch.nn.Module) -> None:
        torch.nn.init.constant_(model.first.bias, 0.5)


PreparedTask.__qualname__ = TinyTask.__qualname__


def test_what_is_computed_from_data_is_set_before_the_first_step_only(tmp_path: Path) -> None:
    """Setting it again on resuming would throw away what was learned since."""

    class StoppedPreparedTask(PreparedTask, StoppedTask):
        pass

    StoppedPreparedTask.__qualname__ = TinyTask.__qualname__
    with pytest.raises(StoppedError):
        train(StoppedPreparedTask(), SETTINGS, tmp_path / "stopped")
    resumed = train(PreparedTask(), SETTINGS, tmp_path / "stopped")
    straight = train(PreparedTask(), SETTINGS, tmp_path / "straight")
    assert same(resumed.model, straight.model)
    assert not same(straight.model, train(TinyTask(), SETTINGS, tmp_path / "unprepared").model)


def _damage(checkpoint: Path, damage: str) -> None:
    weights = checkpoint / "optimizer.safetensors"
    content = weights.read_bytes()
    if damage == "truncate":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        weights.write_bytes(content[:-3] + bytes([content[-3] ^ 64]) + content[-2:])
    elif damage == "state":
        (checkpoint / "state.json").write_text("{")
    elif damage == "no state":
        (checkpoint / "state.json").unlink()
    elif damage == "missing":
        (checkpoint / "model.safetensors").unlink()
    else:  # killed before the renaming of the folder
        checkpoint.rename(checkpoint.parent / f".{checkpoint.name}.0123abcd.tmp")


@pytest.mark.parametrize("workers", [2, 7])
def test_workers_that_make_their_own_noise_train_as_one(tmp_path: Path, workers: int) -> None:
    """A chunk of the noise has four samples, so chunks do not end where the workers' shares do."""
    task = TinyTask(plain=True, wide=24_000)
    settings = replace(SETTINGS, steps=4, batch_size=14, evaluate_every=4)
    processes.run(task, settings, tmp_path / "many", workers)
    many, one = (train(task, settings, tmp_path / name) for name in ("many", "one"))
    assert many.already_finished
    assert many.metrics == pytest.approx(one.metrics, abs=1e-5)
    for a, b in zip(one.model.parameters(), many.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_two_workers_train_as_one(tmp_path: Path) -> None:
    processes.run(TinyTask(plain=True), SETTINGS, tmp_path / "two", workers=2)
    two = train(TinyTask(plain=True), SETTINGS, tmp_path / "two")
    one = train(TinyTask(plain=True), SETTINGS, tmp_path / "one")
    assert two.already_finished
    assert len(curve(one)) == 6
    torch.testing.assert_close(
        torch.tensor(curve(two)), torch.tensor(curve(one)), rtol=0, atol=1e-5
    )
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
