"""The benchmark of a GPU: all of it runs on a CPU, and its numbers are what they say."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_cases.case import MATRIX, Case, Sizes, System, measured
from tests.helpers import forked

REPOSITORY = Path(__file__).parents[2]
SMALL = Sizes(torch.device("cpu"), small=True)
CASES = {
    "ViT-B-16: embedding": "open_clip", "ViT-B-32: embedding": "open_clip",
    "RN101: embedding": "open_clip", "prior: sampling": "diffusers",
    "prior: training": "diffusers", "cascade: training of 8 pixels": "diffusers",
    "cascade: training of 32 pixels": "diffusers", "FID: Inception features": "–",
    "captions to pictures of 32 pixels": "–",
}  # fmt: skip


def test_command_measures_every_part(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--small", "--out", str(tmp_path / "table.md")]
    done = forked.run(forked.module("benchmarks.gpu"), words, os.environ, REPOSITORY)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert table in done.stdout
    assert re.search(r"^### CPU, 20\d\d-\d\d-\d\d$", table, re.M)
    assert "Not measured" not in table
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("| ") and "a second" not in line
    ]
    assert {row[0]: row[6].partition(":")[0] for row in rows} == CASES
    for row in rows:
        assert float(row[3].split()[0]) > 0, row
        assert float(row[4]) > 0, row


def test_a_cases_operations_and_rates_are_counted() -> None:
    """A product of two matrices needs 2 n³ operations; a peer that takes twenty is slower."""
    n = MATRIX[True]
    square = torch.randn(n, n)
    ours = System("corgi", lambda: square @ square, items=10)
    peer = System("peer", lambda: [square @ square for _ in range(20)], items=10)
    row = measured(Case("products", "products", 1, "fp32", ours, peer), SMALL, seconds=0.5)
    assert row.tflops * 1e12 == pytest.approx(row.per_second / 10 * 2 * n**3)
    assert 0.2 < row.share < 5  # of the same product
    assert row.per_second > 4 * row.peer_per_second


def test_a_part_without_its_library_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    gpu.main(device="cpu", small=True, parts="embedding", out=None)
    assert re.search(r"Not measured: embedding \(.*open_clip", capsys.readouterr().out)
