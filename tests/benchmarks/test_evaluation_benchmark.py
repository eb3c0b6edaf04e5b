"""The benchmark of an evaluation's memory, at a small size."""

import json
import os
from pathlib import Path

from tests.helpers import forked

ROOT = Path(__file__).parents[2]


def test_it_evaluates_all_images(tmp_path):
    report = tmp_path / "rows.json"
    words = ["--images", "300", "--size", "16", "--threads", "1", "--json", str(report)]
    done = forked.run(forked.module("benchmarks.evaluation"), words, os.environ, ROOT)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(report.read_text())
    assert row["decoded"] == 300
    # real, its embedding, the prior; nearest, random; text embedding, both linear priors
    assert row["sources"] == 3 + 2 + 3
    assert row["pictures_gb"] == 8 * 300 * 3 * 16**2 * 4 / 1e9
    assert 0.1 < row["peak_gb"] < 2
