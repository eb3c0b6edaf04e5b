"""The benchmark of the metrics, at a small size, in this process."""

import math

from benchmarks.metrics import CASES, QUICK, measured


def test_every_metric_is_measured():
    rows = [measured(number, quick=True, threads=1) for number in range(len(CASES))]
    for row, case in zip(rows, CASES, strict=True):
        assert row["pictures"] == case.count // QUICK
        assert row["processor_seconds"] > 0
        assert math.isfinite(row["value"])
    fid, with_bias = (row["value"] for row in rows[:2])
    assert math.isclose(fid, with_bias, rel_tol=1e-6)
