"""A step's gradient: of microbatches, of several workers, compiled; all skip it or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corgi_core.config import TrainingSettings, preset_named
from corgi_core.encoders.train_clip import ClipTask
from corgi_core.errors import CorgiError
from corgi_core.training.loop import train
from corgi_core.training.metrics_log import read_metrics
from corgi_core.training.order import TrainingOrder
from corgi_core.training.run_folder import TrainingResult
from tests.corgi_core.training.test_training_resume import curve
from tests.helpers import processes
from tests.helpers.patience import PATIENCE
from tests.helpers.tiny import SETTINGS, TinyTask
from tests.helpers.tiny_prior import TRAINING, made_prior

pytestmark = pytest.mark.integration  # trains, or starts processes, for seconds


def assert_close(result: TrainingResult, reference: TrainingResult) -> None:
    """Losses and weights agree to 1e-5."""
    expected = torch.tensor(curve(reference))
    torch.testing.assert_close(torch.tensor(curve(result)), expected, rtol=0, atol=1e-5)
    weights = reference.model.state_dict()
    for name, tensor in result.model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("workers", "chunks"), [(1, 2), (1, 8), (2, 2)])
def test_microbatches_give_what_the_batch_gives(tmp_path: Path, workers: int, chunks: int) -> None:
    task, settings = TinyTask(plain=True), replace(SETTINGS, accumulation=chunks)
    processes.run(task, settings, tmp_path / "chunks", workers)
    whole = train(task, SETTINGS, tmp_path / "whole")
    assert_close(train(task, settings, tmp_path / "chunks"), whole)


def test_a_prior_accumulates_on_two_workers(tmp_path: Path) -> None:
    task, settings = made_prior(tmp_path), replace(TRAINING, accumulation=2)
    processes.run(task, settings, tmp_path / "chunks", workers=2)
    assert_close(
        train(task, settings, tmp_path / "chunks"), train(task, TRAINING, tmp_path / "whole")
    )


class CountingTask(TinyTask):
    """Notes how many rows each microbatch has."""

    sizes: list[int] = []  # noqa: RUF012

    def batch(self, rows, random):  # type: ignore[no-untyped-def]
        self.sizes.append(len(rows))
        return super().batch(rows, random)


def test_a_microbatch_is_all_that_is_computed_at_once(tmp_path: Path) -> None:
    train(CountingTask(), replace(SETTINGS, steps=3, accumulation=4), tmp_path)
    assert CountingTask.sizes == [2] * 12


@pytest.mark.parametrize(
    ("chunks", "workers", "problem"),
    [
        (3, 1, "a batch of 8 .* among 1 workers, each with 3 microbatches"),
        (4, 4, "a batch of 8 .* among 4 workers, each with 4 microbatches. .*multiple of 16"),
    ],
)
def test_impossible_microbatches_are_refused(
    tmp_path: Path, chunks: int, workers: int, problem: str
) -> None:
    settings = replace(SETTINGS, accumulation=chunks)
    with pytest.raises(CorgiError, match=problem):
        train(TinyTask(), settings, tmp_path / "run", world_size=workers)


def test_a_loss_over_pairs_of_samples_is_refused_in_microbatches(tmp_path: Path) -> None:
    """As CLIP's, in which every caption of the batch is a rival of every other."""

    class Pairs(TinyTask):
        compares_samples = True

    assert ClipTask.compares_samples
    with pytest.raises(CorgiError, match=r"2 microbatches cannot .* set accumulation to 1"):
        train(Pairs(), replace(SETTINGS, accumulation=2), tmp_path / "run")
    train(Pairs(), replace(SETTINGS, steps=1), tmp_path / "run")


def test_a_run_goes_on_in_other_microbatches(tmp_path: Path) -> None:
    """How a result is computed is not part of what it is: neither of the run nor of the asset."""
    task, chunks = TinyTask(plain=True), replace(SETTINGS, accumulation=4)
    killed = processes.start(task, SETTINGS, tmp_path / "run", die_at=40)
    assert processes.finish(killed) == [-9]
    assert (tmp_path / "run" / "checkpoints").exists()
    assert_close(
        train(task, chunks, tmp_path / "run"), train(task, SETTINGS, tmp_path / "straight")
    )
    emoji = preset_named("emoji")
    otherwise = replace(emoji.prior.training, accumulation=2, compile=True)
    other = replace(emoji, prior=replace(emoji.prior, training=otherwise))
    assert other.digest("prior") == emoji.digest("prior")
    longer = replace(emoji.prior.training, steps=1)
    other = replace(emoji, prior=replace(emoji.prior, training=longer))
    assert other.digest("prior") != emoji.digest("prior")


def expected_skips(settings: TrainingSettings, task: TinyTask) -> list[int]:
    """The skips so far at every tenth step, if a batch with the spoilt row is skipped."""
    order = TrainingOrder([task.rows], settings.batch_size, settings.seed, settings.shuffle_window)
    spoilt = [int(task.spoilt_row in order.rows_of(step)) for step in range(settings.steps)]
    return [sum(spoilt[:step]) for step in range(10, settings.steps + 1, 10)]


def test_workers_skip_a_spoilt_batch_together(tmp_path: Path) -> None:
    """The row that is not a number lies on one worker; both skip, and log no NaN."""
    task = TinyTask(plain=True, spoilt_row=7)
    processes.run(task, SETTINGS, tmp_path / "two", workers=2)
    two, one = (train(task, SETTINGS, tmp_path / name) for name in ("two", "one"))
    skips = expected_skips(SETTINGS, task)
    assert skips[-1] >= 4
    for result in (one, two):
        assert [entry["skipped"] for entry in read_metrics(result.metrics_log)] == skips
        assert result.skipped == skips[-1]
        assert torch.tensor(curve(result)).isfinite().all()
    assert_close(two, one)


def test_several_workers_stop_together(tmp_path: Path) -> None:
    task = TinyTask(plain=True, spoil_from=20)
    started = processes.start(task, SETTINGS, tmp_path, workers=2)
    for process in started:
        process.join(timeout=PATIENCE)
    assert [process.exitcode for process in started] == [1, 1]  # neither waits for the other
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 20


def test_a_skipped_batch_leaves_nothing_in_the_buffers(tmp_path: Path) -> None:
    """Batch norm's running means take in a NaN before anyone can see that the loss is one."""
    result = train(TinyTask(spoilt_row=7), SETTINGS, tmp_path)
    assert result.skipped >= 4
    assert all(tensor.isfinite().all() for tensor in result.model.state_dict().values())
    assert result.metrics["held_out"] < 1


def test_compiled_training_is_the_eager_one(tmp_path: Path) -> None:
    task, settings = TinyTask(plain=True), replace(SETTINGS, compile=True)
    compiled = train(task, settings, tmp_path / "compiled")
    eager = train(task, SETTINGS, tmp_path / "eager")
    assert type(compiled.model) is type(eager.model)
    assert compiled.model.state_dict().keys() == eager.model.state_dict().keys()
    assert_close(compiled, eager)


def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    import torch._inductor.config as inductor

    torch.compiler.reset()
    with (
        inductor.patch({"cpp.cxx": (None, "no-such-compiler"), "fx_graph_cache": False}),
        pytest.raises(CorgiError, match=r"install a C\+\+ compiler .* compile=False"),
    ):
        train(TinyTask(plain=True), replace(SETTINGS, compile=True), tmp_path)
