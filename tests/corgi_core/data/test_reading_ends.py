"""A process that has read a manifest ends as it should: no thread of Arrow's is left behind."""

import subprocess
import sys

from corgi_core.data.dataset import write_dataset
from tests.helpers.made import samples

READING = """
import os, sys
from pathlib import Path
from corgi_core.data.dataset import Dataset
before = len(os.listdir("/proc/self/task"))
rows = sum(map(len, Dataset.load(Path(sys.argv[1])).iter_rows()))
print(rows, len(os.listdir("/proc/self/task")) - before)
"""


def test_reading_a_manifest_starts_no_thread(tmp_path):
    write_dataset(tmp_path / "set", samples(20), shard_size=10)
    done = subprocess.run(
        [sys.executable, "-c", READING, str(tmp_path / "set")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["20", "0"]
