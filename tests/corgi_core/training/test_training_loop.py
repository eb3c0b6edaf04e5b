"""The loop's parts against closed forms and other implementations, and its promises."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from upath import UPath

from corgi_core import progress
from corgi_core.errors import CorgiError
from corgi_core.training.adamw import AdamW
from corgi_core.training.ema import MovingAverage
from corgi_core.training.loop import SKIPS_IN_A_ROW, learning_rate, train
from corgi_core.training.metrics_log import read_metrics
from tests.helpers.tiny import SETTINGS, Network, TinyTask, same


def test_learning_rate_warms_up_linearly_and_decays_as_a_cosine() -> None:
    settings = replace(SETTINGS, steps=110, warmup_steps=10, learning_rate=2.0)
    rates = [learning_rate(settings, step) for step in range(111)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert rates[110] == pytest.approx(0)
    assert rates[35] == pytest.approx(1 + math.cos(math.pi / 4))


def test_adamw_equals_torchs() -> None:
    ours = Network(plain=False)
    theirs = copy.deepcopy(ours)
    settings = replace(SETTINGS, weight_decay=0.3)
    optimizer = AdamW(ours, settings)
    matrices = [p for p in theirs.parameters() if p.ndim >= 2]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}],
        betas=settings.betas, eps=settings.epsilon, foreach=False, fused=False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        optimizer.zero_grad()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for group in reference.param_groups:
            group["lr"] = 0.1 / (1 + step)
        optimizer.step(0.1 / (1 + step))
        reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_average_follows_its_recurrence() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = MovingAverage(model, decay=0.5)
    expected = model.weight.item()
    for n in range(1, 21):
        with torch.no_grad():
            model.weight.fill_(float(n))
        average.update(model)
        decay = min(0.5, n / (n + 9))
        expected = decay * expected + (1 - decay) * n
    assert average.model.weight.item() == pytest.approx(expected, rel=1e-5)
    assert not average.model.weight.requires_grad


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_learns_and_writes_its_metrics_log(tmp_path: Path, precision: str) -> None:
    heard: list[tuple[str, int, int]] = []
    settings = replace(SETTINGS, precision=precision)
    with progress.listening(lambda *report: heard.append(report)):
        result = train(TinyTask(), settings, UPath(tmp_path / "run"), name="tiny")
    entries = read_metrics(result.metrics_log)
    assert [entry["step"] for entry in entries] == [10, 20, 30, 40, 50, 60]
    losses = [f"{entry['loss']:.3g}" for entry in entries]
    assert heard == [
        (f"tiny · loss {loss}", step, 60)
        for loss, step in zip(losses, (10, 20, 30, 40, 50, 60), strict=True)
    ]
    assert [entry["step"] for entry in entries if "held_out" in entry] == [20, 40, 60]
    assert all(entry["samples_per_second"] > 0 and entry["skipped"] == 0 for entry in entries)
    assert entries[3]["learning_rate"] == learning_rate(settings, 39)
    assert entries[-1]["loss"] < entries[0]["loss"] / 2
    assert result.metrics == {k: entries[-1][k] for k in ("loss", "absolute", "held_out")}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "final.safetensors", "finished.json", "identity.json", "lock", "metrics.jsonl",
    ]  # fmt: skip


def test_a_finished_run_is_returned_and_says_so(tmp_path: Path) -> None:
    first = train(TinyTask(), SETTINGS, tmp_path)
    written = (tmp_path / "metrics.jsonl").read_bytes()
    again = train(TinyTask(), SETTINGS, tmp_path)
    assert not first.already_finished
    assert again.already_finished
    assert same(first.model, again.model)
    assert again.metrics == first.metrics
    assert again.seconds == first.seconds
    assert not again.model.training
    assert (tmp_path / "metrics.jsonl").read_bytes() == written


def test_damaged_final_weights_are_trained_again(tmp_path: Path) -> None:
    first = train(TinyTask(), SETTINGS, tmp_path)
    weights = tmp_path / "final.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    again = train(TinyTask(), SETTINGS, tmp_path)
    assert not again.already_finished
    assert same(first.model, again.model)


def test_another_training_is_refused_by_what_differs(tmp_path: Path) -> None:
    train(TinyTask(), SETTINGS, tmp_path)
    with pytest.raises(CorgiError, match=r"settings\.seed is 0 there and 1 here.*another run name"):
        train(TinyTask(), replace(SETTINGS, seed=1), tmp_path)
    with pytest.raises(CorgiError, match=r"task\.rows is 100 there and 90 here"):
        train(TinyTask(rows=90), SETTINGS, tmp_path)


@pytest.mark.parametrize(
    ("rows", "folder", "workers", "problem"),
    [
        (0, "run", 1, "no samples"),
        (100, "memory://run", 1, "not on a file system"),
        (100, "run", 3, "a batch of 8 cannot be divided among 3 workers"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, rows: int, folder: str, workers: int, problem: str
) -> None:
    path = UPath(folder) if "://" in folder else tmp_path / folder
    with pytest.raises(CorgiError, match=problem):
        train(TinyTask(rows), SETTINGS, path, world_size=workers)
    assert not (tmp_path / "run").exists()


def test_steps_that_are_not_finite_are_skipped_then_stop_the_run(tmp_path: Path) -> None:
    almost = TinyTask(spoil_from=SETTINGS.steps - SKIPS_IN_A_ROW + 1)
    result = train(almost, SETTINGS, tmp_path / "almost")
    assert result.skipped == SKIPS_IN_A_ROW - 1
    assert all(torch.isfinite(p).all() for p in result.model.parameters())
    with pytest.raises(CorgiError, match="not finite for 10 steps"):
        train(TinyTask(spoil_from=20), SETTINGS, tmp_path / "spoilt")


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corgi_core.training.loop.LOCK_PATIENCE", 0.3)
    holder = f"""
import sys, pathlib
from corgi_core.io.locks import exclusive_lock
with exclusive_lock(pathlib.Path({str(tmp_path / "lock")!r}), "busy"):
    print("held", flush=True); sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        with pytest.raises(CorgiError, match=f"another process .*process {process.pid} on"):
            train(TinyTask(), SETTINGS, tmp_path)
        process.kill()
        process.wait()
    assert train(TinyTask(), SETTINGS, tmp_path).steps == SETTINGS.steps


def test_checkpoints_are_plain_and_named(tmp_path: Path) -> None:
    with pytest.raises(CorgiError):
        train(TinyTask(spoil_from=45), SETTINGS, tmp_path)
    folders = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert folders == ["step-000040", "step-000050"]
    newest = tmp_path / "checkpoints" / "step-000040"
    optimizer = load_file(newest / "optimizer.safetensors")
    assert optimizer["first.weight.step"].item() == 40
    assert {"convolution.bias.exp_avg", "convolution.bias.exp_avg_sq"} <= optimizer.keys()
    assert "norm.running_mean" in load_file(newest / "ema.safetensors")
    assert json.loads((newest / "state.json").read_text())["step"] == 40
