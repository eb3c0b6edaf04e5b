"""Ours: tars through `ingest` and the quality gate, from reading to written shards and manifests.

The gate's shards are shared by as many processes as there are cores, as they are by Ray's workers
where a dataset is large. They start before the clock does, as img2dataset's do: a start costs the
same whether there are a thousand images or a million.

`python -m benchmarks.ingest_systems.corgi` answers a line of JSON with one, as `benchmarks.ingest`
asks.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import psutil

from corgi_core.config import DataSettings
from corgi_core.data.dataset import Dataset
from corgi_core.data.ingest import ingest
from corgi_core.data.quality import gate
from corgi_core.mapping import Map


def measured(work: str, folder: str, pool: Pool) -> dict[str, float]:
    """Seconds and processor seconds of one step over a dataset, and how many images it wrote."""
    raw, settings = Dataset.load(Path(folder)), DataSettings()
    with tempfile.TemporaryDirectory(dir=raw.folder.parent) as temporary:
        if work == "gate":
            step = partial(gate, raw, Path(temporary) / "images", settings, lambda _: _over(pool))
        else:
            source, target = str(raw.folder / "shards"), Path(temporary) / "raw"
            step = partial(ingest, "webdataset", source, target, settings, seed=0)
        used, began = _processor_seconds(), time.perf_counter()
        images = len(step())
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "images": images, "processor": _processor_seconds() - used}


def _over(pool: Pool) -> Map:
    """The pool's processes as the gate asks for them."""

    def mapped(
        function: Callable[[Any, Any], Any], common: Any, items: Sequence[Any], what: str
    ) -> Generator[Any]:
        yield from pool.imap(partial(function, common), items)

    return mapped


def _processor_seconds() -> float:
    """Of this process and its children."""
    this = psutil.Process()
    used = (process.cpu_times() for process in [this, *this.children()])
    return sum(each.user + each.system for each in used)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    with multiprocessing.get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:
        for line in sys.stdin:
            request = json.loads(line)
            print(json.dumps(measured(request["work"], request["folder"], pool)), file=answers)


if __name__ == "__main__":
    main()
