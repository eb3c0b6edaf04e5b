"""Whatever stops a training, going on gives what an undisturbed one gives: kills, full disks."""

from __future__ import annotations

import random
import re
import subprocess
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from corgi_core.config import TrainingSettings
from corgi_core.errors import CorgiError
from corgi_core.training.loop import train
from corgi_core.training.run_folder import TrainingResult
from tests.corgi_core.training.test_training_resume import curve
from tests.helpers import processes
from tests.helpers.processes import Moment
from tests.helpers.tiny import SETTINGS, TinyTask, same
from tests.helpers.tiny_prior import TRAINING, made_prior

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = replace(SETTINGS, steps=20, checkpoint_every=5, evaluate_every=10)


def kind(moment: Moment) -> Moment:
    """The moment without the step and the process in its file's name."""
    operation, file = moment
    return operation, re.sub(r"step-\d+|[0-9a-f]{6}-\d+-[0-9a-f]{8}", "*", file)


def one_of_each_kind(moments: list[Moment]) -> list[int]:
    """For every kind of file operation, the number of one of its occurrences."""
    chance = random.Random(0)
    numbers: dict[Moment, list[int]] = {}
    for number, moment in enumerate(moments):
        numbers.setdefault(kind(moment), []).append(number)
    return [chance.choice(same_kind) for same_kind in numbers.values()]


def assert_same(result: TrainingResult, straight: TrainingResult) -> None:
    assert same(result.model, straight.model)
    assert curve(result) == curve(straight)
    assert result.metrics == straight.metrics


def test_sigkill_before_any_file_operation_changes_no_bit(tmp_path: Path) -> None:
    """While a checkpoint is written, right after its renaming, while the run is finished, …"""
    moments = processes.moments_of(TinyTask(), SHORT, tmp_path / "straight")
    straight = train(TinyTask(), SHORT, tmp_path / "straight")
    chosen = one_of_each_kind(moments)
    assert len(chosen) > 20
    for number in chosen:
        folder = tmp_path / f"killed-{number}"
        codes = processes.finish(processes.start(TinyTask(), SHORT, folder, die_at=number))
        assert codes == [-9], moments[number]
        assert_same(train(TinyTask(), SHORT, folder), straight)
        assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("step", [0, 1, 11, 19])
@pytest.mark.parametrize("workers", [1, 2])
def test_sigkill_in_a_step_changes_no_bit(tmp_path: Path, step: int, workers: int) -> None:
    """In the first one, the last one and between; of two workers, one or both die."""
    task = TinyTask(plain=True, die_at=step, died=tmp_path / "died")
    codes = processes.finish(processes.start(task, SHORT, tmp_path / "killed", workers))
    assert -9 in codes
    for folder in ("killed", "straight"):
        processes.run(task, SHORT, tmp_path / folder, workers)
    assert_same(*(train(task, SHORT, tmp_path / folder) for folder in ("killed", "straight")))


def test_sigkill_of_the_worker_that_writes_stops_both(tmp_path: Path) -> None:
    task = TinyTask(plain=True)
    moments = processes.moments_of(task, SHORT, tmp_path / "alone")
    processes.run(task, SHORT, tmp_path / "straight", workers=2)
    straight = train(task, SHORT, tmp_path / "straight")
    kinds = [kind(moment) for moment in moments]
    for operation in (("os.rename", "checkpoints/*"), ("os.rename", "final.safetensors")):
        folder = tmp_path / operation[1].replace("/*", "")
        die_at = kinds.index(operation)
        codes = processes.finish(processes.start(task, SHORT, folder, workers=2, die_at=die_at))
        assert codes[0] == -9
        processes.run(task, SHORT, folder, workers=2)
        assert_same(train(task, SHORT, folder), straight)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 2)])
def test_a_prior_goes_on_with_any_number_of_workers(
    tmp_path: Path, before: int, after: int
) -> None:
    """And an undisturbed one is the same on two workers (the last case)."""
    task = made_prior(tmp_path)
    moments = processes.moments_of(task, TRAINING, tmp_path / "straight")
    straight = train(task, TRAINING, tmp_path / "straight")
    saved = [kind(moment) for moment in moments].index(("open", "checkpoints/*"))
    if before != after:
        codes = processes.finish(
            processes.start(task, TRAINING, tmp_path / "killed", before, die_at=saved)
        )
        assert codes[0] == -9
    processes.run(task, TRAINING, tmp_path / "killed", after)
    result = train(task, TRAINING, tmp_path / "killed")
    assert len(curve(result)) == 5
    torch.testing.assert_close(
        torch.tensor(curve(result)), torch.tensor(curve(straight)), rtol=0, atol=1e-5
    )
    assert result.metrics == pytest.approx(straight.metrics, abs=1e-5)


def test_a_prior_passes_over_a_damaged_checkpoint(tmp_path: Path) -> None:
    task = made_prior(tmp_path)
    moments = processes.moments_of(task, TRAINING, tmp_path / "straight")
    straight = train(task, TRAINING, tmp_path / "straight")
    finishing = moments.index(("os.rename", "final.safetensors"))
    processes.finish(processes.start(task, TRAINING, tmp_path / "killed", die_at=finishing))
    newest = tmp_path / "killed" / "checkpoints" / "step-000008"
    weights = newest / "ema.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert_same(train(task, TRAINING, tmp_path / "killed"), straight)


def files_at(failure: BaseException | None) -> set[str]:
    """The names of the source files that the failure came through."""
    assert isinstance(failure, OSError | SafetensorError)
    return {Path(frame.filename).stem for frame in traceback.extract_tb(failure.__traceback__)}


@pytest.mark.parametrize("left", [0, 4096, 8192, 12288])
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, small_disk: Path, left: int) -> None:
    """`left` bytes are too few for the checkpoint's first file, its second …"""
    task = TinyTask(fill_at=25, ballast=small_disk / "ballast", left=left)
    folder = small_disk / "run"
    refusal = r"full\. free space there .* goes on from step 20"
    with pytest.raises(CorgiError, match=refusal) as full:
        train(task, SETTINGS, folder)
    assert str(folder) in full.value.problem
    assert "checkpoint" in files_at(full.value.__cause__)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "step-000010", "step-000020",
    ]  # fmt: skip
    assert not list(folder.rglob("*.tmp"))
    with pytest.raises(CorgiError, match=refusal):
        train(task, SETTINGS, folder)  # nothing has been freed
    (small_disk / "ballast").unlink()
    resumed = train(replace(task, ballast=None), SETTINGS, folder)
    assert_same(resumed, train(replace(task, ballast=None), SETTINGS, tmp_path / "straight"))


EVERY_STEP = replace(SETTINGS, evaluate_every=1, checkpoint_every=100)  # a long log


@pytest.mark.parametrize(
    ("settings", "fill_at", "goes_on", "file"),
    [
        (EVERY_STEP, 0, 0, "metrics_log"),  # its first entry
        (replace(EVERY_STEP, checkpoint_every=10), 11, 10, "metrics_log"),  # a later one
        (SETTINGS, 59, 50, "run_folder"),  # the final weights
    ],
)
def test_a_full_disk_stops_whatever_is_written(
    tmp_path: Path,
    small_disk: Path,
    settings: TrainingSettings,
    fill_at: int,
    goes_on: int,
    file: str,
) -> None:
    task = TinyTask(fill_at=fill_at, ballast=small_disk / "ballast")
    with pytest.raises(CorgiError, match=rf"full\. .* goes on from step {goes_on}") as full:
        train(task, settings, small_disk / "run")
    assert file in files_at(full.value.__cause__)
    assert "checkpoint" not in files_at(full.value.__cause__)
    (small_disk / "ballast").unlink()
    task = replace(task, ballast=None)
    resumed = train(task, settings, small_disk / "run")
    assert_same(resumed, train(task, settings, tmp_path / "straight"))


def test_a_disk_that_was_full_before_is_named_too(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,nr_inodes=1", str(small_disk)], check=True)
    with pytest.raises(CorgiError, match=r"full\. .* goes on from step 0"):
        train(TinyTask(), SETTINGS, small_disk / "run")
