"""The benchmark of the decoders' training really runs; its peer's step really trains."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from benchmarks.decoder_systems.diffusers_example import Example, Files
from benchmarks.decoder_systems.system import Case
from benchmarks.decoders import write_pictures
from corgi_core.config import StageSettings
from corgi_core.decoders.cascade.unet import Stage
from tests.helpers import forked

REPOSITORY = Path(__file__).parents[2]


def test_command_measures_two_kinds_and_both_peers(tmp_path: Path) -> None:
    words = [
        "--preset", "emoji-small", "--kinds", "pca,cascade", "--batch", "4", "--pictures", "24",
        "--rounds", "2", "--threads", "1", "--json", str(tmp_path / "decoders.json"),
    ]  # fmt: skip
    done = forked.run(forked.module("benchmarks.decoders"), words, os.environ, REPOSITORY)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "decoders.json").read_text())
    systems = [row["system"] for row in rows]
    assert systems == ["pca", "cascade", "diffusers", "diffusers-cached"]
    for row in rows:
        assert row["slowest"] <= row["per_second"] <= row["fastest"]
        assert 1e8 < row["peak_bytes"] < 1e10
        peer = rows[2]["per_second"]
        assert row["ratio_to_diffusers"] == pytest.approx(row["per_second"] / peer)
    assert "× diffusers" in done.stdout


def test_an_unknown_kind_is_refused() -> None:
    program = forked.module("benchmarks.decoders")
    done = forked.run(program, ["--kinds", "nothing"], os.environ, REPOSITORY)
    assert done.returncode == 1
    assert done.stderr.startswith("the preset emoji has no decoder 'nothing'")


def test_the_peer_learns_with_channels_first(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 8)
    pictures = Files(tmp_path / "pictures", 16)
    assert len(pictures) == 8
    assert pictures[0].shape == (3, 16, 16)
    assert pictures[0].abs().max() <= 1
    case = Case("emoji-small", tmp_path / "pictures", tmp_path, 4, "fp32", 1)
    settings = StageSettings(
        size=16, channels=(8, 16), layers=1, attention_levels=1, noise_shift=0.0
    )
    torch.manual_seed(0)
    stage = Stage(settings, 6, 8, 16, None, upsamples=True)
    example = Example(case, stage, 16, low=8)
    assert stage.unet.conv_in.weight.is_contiguous()
    before = [p.detach().clone() for p in stage.unet.parameters()]
    batch = example.batch()
    assert batch.shape == (4, 3, 16, 16)
    example.step(batch, torch.randn(4, 6))
    assert all((a != b).any() for a, b in zip(before, stage.unet.parameters(), strict=True))
