"""The benchmark of scale makes images that differ, ingests them, and measures its children."""

from __future__ import annotations

import sys
from subprocess import CalledProcessError

import pytest

from benchmarks.scale import measure, report
from benchmarks.scale_steps import manifests
from benchmarks.scale_steps.made import caption_of, picture_of
from benchmarks.scale_steps.watched import watched
from corgi_core.data.dataset import Dataset
from corgi_core.data.normalise import normalise


def test_made_pictures_differ_in_their_pixels():
    numbers = [*range(200), *(1 << bit for bit in range(20))]
    plain = {normalise(picture_of(number), 10**6, 100).pixels for number in numbers}
    assert len(plain) == len(set(numbers))
    assert caption_of(7) != caption_of(1007)


def test_the_first_step_is_done_in_a_process_of_its_own(tmp_path):
    rows = measure(tmp_path, 20, ("ingest",), workers=0, training_steps=1)
    assert len(Dataset.load(tmp_path / "data" / "made" / "raw_images")) == 20
    assert rows[0]["seconds"] > 0
    assert 3e7 < max(rows[0]["peaks"].values()) < 2e9
    assert measure(tmp_path, 20, ("ingest",), workers=0, training_steps=1) == rows


def test_the_peak_counts_grandchildren_and_a_failure_is_one():
    hungry = "import time; filled = bytearray(b'1') * 200_000_000; time.sleep(0.5)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hungry!r}])"
    assert watched([sys.executable, "-c", child]).peak > 200e6
    with pytest.raises(CalledProcessError):
        watched([sys.executable, "-c", "raise SystemExit(3)"])


def rows(seconds: float, peak: float) -> list[dict]:
    return [
        {"step": "gate", "images": 100, "seconds": 2.0, "peaks": {"the step": 1e9}},
        {"step": "gate", "images": 1000, "seconds": seconds, "peaks": {"the step": peak}},
    ]


def test_the_table_says_whether_both_bounds_hold():
    assert "| gate | 2.0 | 23.0 | 11.5 | 3.90 |\n\nAll under 4 GB" in report(rows(23, 3.9e9))
    assert "gate takes 12.5 times as long for 10 times as many" in report(rows(25, 1e9))
    assert "gate had 4.10 GB" in report(rows(20, 4.1e9))


@pytest.mark.parametrize(
    ("operation", "found"),
    [
        ("append", "50,000 of 50,000 found"),
        ("expectations", "1 to compare"),
        ("dataset", "20,000 held out"),
        ("caption_subset", "20,000 in the subset, 10.0% of"),
        ("epoch", "each row once"),
        ("near_twins", "200 of 200 planted twins moved"),
    ],
)
def test_what_is_done_with_simulated_manifests_is_right(operation, found):
    assert manifests.OPERATIONS[operation](200_000).startswith(found)
