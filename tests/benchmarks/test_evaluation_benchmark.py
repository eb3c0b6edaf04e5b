"""The benchmark of an evaluation's memory, at a small size."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_evaluates_all_images(tmp_path):
    report = tmp_path / "rows.json"
    size = ["--images", "300", "--size", "16", "--json", str(report)]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.evaluation", *size],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (row,) = json.loads(report.read_text())
    assert row["decoded"] == 300
    assert row["pictures_gb"] == 3 * 300 * 3 * 16**2 * 4 / 1e9
    assert 0.1 < row["peak_gb"] < 2
