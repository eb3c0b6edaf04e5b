"""The benchmark of the prior: its children really run, and its floor is torch's own count."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.prior_systems import floor, report
from benchmarks.prior_systems.captions import MadeCaptions
from benchmarks.prior_systems.corgi import Corgi
from benchmarks.prior_systems.parent import REPOSITORY, children, in_turn
from benchmarks.prior_systems.system import Captions, Case
from corgi_core.prior.model import PriorModel
from tests.helpers import forked

TINY = Case(
    "training", dim=96, batch=3, text_tokens=20, text_width=64, width=64, layers=3, heads=4,
    noise_samples=5, steps=4, held_out=200, seconds=3.0,
)  # fmt: skip


def test_command_measures_two_systems_and_writes_their_rows(tmp_path: Path) -> None:
    """The real command, processes and protocol; DALLE2-pytorch would need a package registry."""
    words = [
        "--quick", "--systems", "corgi,diffusers", "--dims", "512", "--batches", "2",
        "--noise-samples", "3", "--seconds", "2", "--learning-rates", "1e-3", "--threads", "1",
        "--json", str(tmp_path / "prior.json"),
    ]  # fmt: skip
    done = forked.run(forked.module("benchmarks.prior"), words, os.environ, REPOSITORY)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "prior.json").read_text())
    assert [(r["system"], r["task"], r["dim"], r["batch"]) for r in rows] == [
        (system, task, 512, 2)
        for task in ("sampling", "training")
        for system in ("corgi", "diffusers")
    ]
    assert all(row["per_second"] > 0 for row in rows)
    assert all(0 < row["floor_fraction"] < 1 for row in rows if row["system"] == "corgi")
    losses = json.loads((tmp_path / "prior-loss.json").read_text())
    assert {row["system"] for row in losses} == {"corgi", "diffusers"}
    assert all(row["steps"] > 0 and row["loss"] > 0 for row in losses)
    assert "× peer" in done.stdout


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--systems", "corgi,nobody", "there is no system 'nobody'"),
        ("--dims", "abc", "--dims 'abc' are not numbers above 0"),
        ("--learning-rates", "0", "--learning-rates '0' are not numbers above 0"),
    ],
)
def test_bad_options_are_refused_before_anything_starts(option: str, value: str, says: str) -> None:
    program = forked.module("benchmarks.prior")
    done = forked.run(program, [option, value], os.environ, REPOSITORY)
    assert done.returncode == 1
    assert done.stderr.startswith(says)


def test_child_learns_and_an_idle_one_does_not_compute(tmp_path: Path) -> None:
    with children(["corgi"], threads=2, home=tmp_path) as (child,):
        child.prepare(replace(TINY, task="learning"))
        before = child.ask("evaluate")["loss"]
        half = child.ask("learn", seconds=1.0)
        whole = child.ask("learn", seconds=9.0)
        assert half["used"] >= 1.0
        assert whole["used"] >= TINY.seconds
        assert child.ask("learn", seconds=9.0) == whole  # the case's seconds are used up
        assert child.ask("evaluate")["loss"] < before

        time.sleep(0.2)  # its threads spin a little before they sleep
        process = psutil.Process(child.process.pid)
        used = sum(process.cpu_times()[:2])
        time.sleep(1.0)
        assert sum(process.cpu_times()[:2]) - used < 0.05
    assert child.process.poll() == 0


def test_every_round_starts_with_another_system() -> None:
    turns: list[str] = []
    in_turn(["a", "b", "c"], 4, turns.append)  # type: ignore[arg-type, list-item]
    assert "".join(turns) == "abcbcacababc"


@pytest.mark.parametrize("dim", [64, 96])
def test_training_needs_exactly_the_multiply_adds_that_torch_counts(dim: int) -> None:
    case = replace(TINY, dim=dim)
    system, captions = Corgi(case), MadeCaptions(case).training(0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        system.loss(captions).backward()
    assert counter.get_total_flops() == 2 * floor.training_multiply_adds(case)


@pytest.mark.parametrize("batch", [1, 6])
def test_sampling_counts_little_more_than_the_floor(batch: int) -> None:
    case = Case("sampling", dim=512, batch=batch, layers=2, steps=6)
    system, captions = Corgi(case), MadeCaptions(case).training(0)
    system.model = PriorModel(  # torch counts nothing of a compiled one's
        system.network, system.model.bank, system.settings, encoders={}, card={}
    )
    with (
        torch.inference_mode(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        system.sample(captions, case.steps, case.guidance)
    before, step = floor.sampling_multiply_adds(case)
    assert 1 <= counter.get_total_flops() / 2 / (before + case.steps * step) < 1.05


def test_weights_are_the_networks_matrices() -> None:
    matrices = [
        layer.weight.numel()
        for layer in Corgi(TINY).network.modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    assert floor.weights(TINY) == sum(matrices)


def test_floor_is_the_slower_of_arithmetic_and_reading() -> None:
    case = Case("sampling", dim=512, batch=1)
    before, step = floor.sampling_multiply_adds(case)
    computing = floor.floor_seconds(case, floor.Machine(flops=1e9, bytes=1e30))
    assert computing == pytest.approx(2 * (before + case.steps * step) / 1e9)
    reading = floor.floor_seconds(case, floor.Machine(flops=1e30, bytes=1e9))
    assert reading == pytest.approx(4 * floor.weights(case) * (1 + case.steps) / 1e9)


def test_made_captions_are_alike_for_all_and_never_the_held_out_ones() -> None:
    captions, again = MadeCaptions(TINY), MadeCaptions(TINY)
    for a, b in zip(captions.training(7), again.training(7), strict=True):
        assert torch.equal(a, b)
    held_out: Captions = captions.held_out()
    assert not torch.isin(captions.training(0).image, held_out.image).any()
    assert held_out.image.square().mean(dim=1).allclose(torch.ones(TINY.held_out))


def test_ratio_is_to_the_best_peer_of_the_same_case() -> None:
    def row(system: str, batch: int, rate: float) -> report.Row:
        same = {"task": "sampling", "dim": 512, "precision": "fp32"}
        return {"system": system, "batch": batch, "per_second": rate, **same}

    rows = [row("corgi", 1, 30.0), row("a", 1, 2.0), row("b", 1, 3.0), row("b", 16, 100.0)]
    assert report.ratio_to_best_peer(rows, rows[0]) == 10
    assert report.ratio_to_best_peer(rows[:1], rows[0]) is None
