"""Freed memory stays with the process while it trains, and goes back to the system afterwards."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

from tests.helpers.patience import PATIENCE

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries have no such switch"
)

BLOCK = 40 * 2**20  # bytes: more than glibc ever keeps by itself
PAGES = BLOCK // 4096

WORK = f"""
import json, resource, sys
import psutil, torch
from corgi_core.training.memory import keep_freed_memory

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones({BLOCK} // 4) for _ in range(4)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

resident = psutil.Process().memory_info().rss
measured = {{"before": [faults_of_a_step() for _ in range(3)][-1]}}
with keep_freed_memory():
    measured["within"] = [faults_of_a_step() for _ in range(12)]  # the first allocates them
    measured["within_bytes"] = psutil.Process().memory_info().rss - resident
measured["after_bytes"] = psutil.Process().memory_info().rss - resident
json.dump(measured, sys.stdout)
"""


def test_blocks_are_not_fetched_anew_in_every_step_and_go_back_at_the_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORK], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    measured = json.loads(done.stdout)
    assert measured["before"] > 3 * PAGES
    assert max(measured["within"][6:]) < PAGES // 10, measured
    assert measured["within_bytes"] > 3 * BLOCK
    assert measured["after_bytes"] < BLOCK
