"""The benchmark of embedding: its systems really embed, and its ratio is to the best peer."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.embedding import app, verdict
from benchmarks.embedding_systems.photographs import photograph
from benchmarks.prior_systems.parent import REPOSITORY
from corgi_core.errors import CorgiError
from tests.helpers import forked


def test_command_measures_two_systems_and_writes_their_rows(tmp_path: Path) -> None:
    """The real command and processes; clip-retrieval would need a package registry."""
    file = tmp_path / "embedding.json"
    words = ["--quick", "--systems", "corgi,open_clip", "--cores", "1", "--json", str(file)]
    done = forked.run(forked.module("benchmarks.embedding"), words, os.environ, REPOSITORY)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())
    assert [(row["system"], row["label"]) for row in rows][:4] == [
        ("corgi", "fp32"), ("corgi", "bf16"), ("corgi", "bf16, stored first"),
        ("open_clip", "fp32"),
    ]  # fmt: skip
    assert len(rows) == 5
    for row in rows:
        assert row["images"] == 12
        assert row["per_second"] > 0
        assert row["processor_ms"] > 0
        assert row["cosine"] > (0.9999 if row["precision"] == "fp32" else 0.99)
    assert "ours is" in done.stdout
    assert "times as fast as the best peer" in done.stdout.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--systems", "corgi,nobody"], "there is no system 'nobody'"),
        (["--images", "0"], "there is nothing to measure"),
    ],
)
def test_bad_options_are_refused_before_anything_starts(options: list[str], says: str) -> None:
    with pytest.raises(CorgiError, match=says):
        CliRunner().invoke(app, options, catch_exceptions=False)


def test_the_verdict_compares_the_best_of_both_sides() -> None:
    def row(system: str, precision: str, rate: float) -> dict[str, Any]:
        return {"system": system, "precision": precision, "per_second": rate}

    rows = [
        row("corgi", "fp32", 10), row("corgi", "bf16", 26), row("open_clip", "fp32", 5),
        row("open_clip", "bf16", 13), row("clip-retrieval", "fp32", 8),
    ]  # fmt: skip
    any_precision, float32, default = verdict(rows).splitlines()
    assert "2.00 times" in any_precision
    assert "(goal 1.3: reached)" in any_precision
    assert "1.25 times" in float32
    assert "not reached" in float32
    assert "0.77 times" in default


def test_photographs_are_files_as_cameras_write_them() -> None:
    """Compressed to 1 to 5 bits a pixel, each its own, with a falling spectrum."""
    files = [photograph(seed, 320, 240) for seed in (0, 0, 1)]
    assert files[0] == files[1] != files[2]
    assert 1 < 8 * len(files[0]) / (320 * 240) < 5
    grey = np.asarray(Image.open(io.BytesIO(files[0])).convert("L"), np.float64)
    power = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    low, high = power[0, 2:8].mean(), power[0, 32:128].mean()
    assert low > 30 * high > 0
