"""Ours: tars through `ingest` and the quality gate, from reading to written shards and manifests.

`python -m benchmarks.ingest_systems.corgi` answers a line of JSON with one, as `benchmarks.ingest`
asks.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from corgi_core.config import DataSettings
from corgi_core.data.dataset import Dataset
from corgi_core.data.ingest import ingest
from corgi_core.data.quality import gate


def seconds(work: str, folder: str) -> tuple[float, int]:
    """Seconds of one step over a dataset, and how many images it wrote."""
    raw, settings = Dataset.load(Path(folder)), DataSettings()
    with tempfile.TemporaryDirectory(dir=raw.folder.parent) as temporary:
        began = time.perf_counter()
        if work == "gate":
            written = gate(raw, Path(temporary) / "images", settings)
        else:
            target = Path(temporary) / "raw"
            written = ingest("webdataset", str(raw.folder / "shards"), target, settings, seed=0)
        return time.perf_counter() - began, len(written)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        used = time.process_time()
        took, images = seconds(request["work"], request["folder"])
        answer = {"seconds": took, "images": images, "processor": time.process_time() - used}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
