"""The benchmark of fitting at a small size: it runs, and the moments that it reports are exact."""

import json
import os
from pathlib import Path

from tests.helpers import forked

ROOT = Path(__file__).parents[2]


def test_it_measures_a_quarter_and_all(tmp_path):
    report = tmp_path / "rows.json"
    words = ["--count", "80000", "--width", "64", "--k", "16", "--json", str(report)]
    done = forked.run(forked.module("benchmarks.gaussians"), words, os.environ, ROOT)
    assert done.returncode == 0, done.stderr
    quarter, whole = json.loads(report.read_text())
    assert (quarter["count"], whole["count"]) == (20_000, 80_000)
    for row in (quarter, whole):
        assert row["sample"] == 16 * 256
        assert row["components_checked"] > 0
        assert row["mean_error_in_std"] < 1e-5
        assert row["std_error_relative"] < 1e-5
        assert 0 < row["peak_gb"] < 3
