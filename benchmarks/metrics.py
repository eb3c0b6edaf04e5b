"""Time and memory of the metrics of pictures: `python -m benchmarks.metrics`.

All but the first have their intervals.

Makes features of random numbers, measures each metric in a fresh process, and prints the seconds by
the clock and of processor time, and the process's peak resident memory. The features themselves,
float32, are in it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.fresh_process import in_fresh_process, peak_gb
from corgi_core.evaluation.picture_features import INCEPTION
from corgi_core.evaluation.set_scores import frechet_scores, vendi_scores
from corgi_core.io.files import write_json
from corgi_core.metrics.bootstrap import sum_with_interval, with_intervals
from corgi_core.metrics.cmmd import scaled_gaussian
from corgi_core.metrics.features import Features, in_their_span
from corgi_core.metrics.frechet import (
    FeatureStatistics,
    SumsByPart,
    bias_of_two,
    frechet_by_part,
    frechet_distance,
)
from corgi_core.metrics.kid import cubic
from corgi_core.metrics.mmd import Kernel, mmd_influences
from corgi_core.metrics.precision_recall import Manifold, inside
from corgi_core.metrics.vendi import vendi_by_part


def _fid(real: Features, generated: Features) -> float:
    return frechet_distance(FeatureStatistics.of(real), FeatureStatistics.of(generated))


def _fid_scores(real: Features, generated: Features) -> float:
    ours, theirs = map(SumsByPart.of, in_their_span([generated, real]))
    bias = bias_of_two(ours.bias, theirs.bias)
    return frechet_scores(INCEPTION, frechet_by_part(ours, theirs), bias)["fid"]


def _mmd_of(kernel: Kernel) -> Callable[[Features, Features], float]:
    def metric(real: Features, generated: Features) -> float:
        return sum_with_interval("mmd", mmd_influences(real, generated, kernel))["mmd"]

    return metric


def _vendi(_: Features, generated: Features) -> float:
    return vendi_scores(vendi_by_part(generated))["vendi"]


def _manifolds(real: Features, generated: Features) -> float:
    found = inside(Manifold.of(real), Manifold.of(generated)).by_feature
    return with_intervals(found)["precision"]


@dataclass(frozen=True)
class Case:
    """A metric of two sets of so many pictures with so many features."""

    name: str
    metric: Callable[[Features, Features], float]
    count: int
    width: int


CASES = (
    Case("FID", _fid, 10_000, 2048),
    Case("FID with its bias", _fid_scores, 10_000, 2048),
    Case("KID", _mmd_of(cubic), 10_000, 2048),
    Case("CMMD", _mmd_of(scaled_gaussian), 30_000, 512),
    Case("Vendi", _vendi, 30_000, 512),
    Case("precision, recall, density, coverage", _manifolds, 30_000, 512),
)
QUICK = 50  # by which --quick divides the pictures


def measured(number: int, quick: bool, threads: int) -> dict[str, Any]:
    """Compute one metric in this process."""
    case = CASES[number]
    count = case.count // QUICK if quick else case.count
    random = np.random.default_rng(0)
    sets = (random.standard_normal((count, case.width), np.float32) for _ in range(2))
    real, generated = sets
    generated *= np.float32(1.1)
    with threadpool_limits(threads):
        began, used = time.perf_counter(), time.process_time()
        value = case.metric(real, generated)
        seconds, processor = time.perf_counter() - began, time.process_time() - used
    return {
        "metric": case.name, "pictures": count, "width": case.width, "value": value,
        "seconds": round(seconds, 2), "processor_seconds": round(processor, 2),
        "peak_gb": peak_gb(),
    }  # fmt: skip


def main() -> None:
    """Measure every metric, or one of them, in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the pictures")
    parser.add_argument("--only", type=int, nargs="+", default=range(len(CASES)), metavar="NUMBER")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    given = parser.parse_args()
    rows = []
    for number in given.only:
        rows.append(in_fresh_process(measured, number, given.quick, given.threads))
        row = rows[-1]
        print(
            f"{row['metric']} of 2 × {row['pictures']:,} × {row['width']:,}: {row['seconds']} s, "
            f"{row['processor_seconds']} s of processors, peak {row['peak_gb']:.2f} GB"
        )
    if given.json:
        write_json(given.json, rows)


if __name__ == "__main__":
    main()
