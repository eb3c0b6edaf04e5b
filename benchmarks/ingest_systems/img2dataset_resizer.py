"""img2dataset's `Resizer` over images in memory, in as many processes as there are cores.

Its reader, its downloader and its writer are left out: only decoding, resizing where an image is
larger, and encoding are counted. So is importing the package as a whole, which would need a
tracking service's package.

`python -m benchmarks.ingest_systems.img2dataset_resizer` answers as `corgi` beside it does, in the
environment that `benchmarks.environments` makes.
"""

from __future__ import annotations

import importlib.util
import io
import json
import multiprocessing
import os
import sys
import time
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from corgi_core.config import DataSettings
from corgi_core.data.dataset import Dataset

_images: list[bytes] = []  # the processes are forked with them


@lru_cache
def _resizer_class() -> Any:
    """`img2dataset.resizer.Resizer`, without what the package's first module imports."""
    found = importlib.util.find_spec("img2dataset")
    assert found is not None
    package = ModuleType("img2dataset")
    package.__path__ = list(found.submodule_search_locations or ())
    sys.modules["img2dataset"] = package
    from img2dataset.resizer import Resizer

    return Resizer


def _resize(part: tuple[bool, int, int]) -> tuple[int, float]:
    """How many of every so-manieth images came out, and the processor's seconds."""
    as_they_are, first, step = part
    used = time.process_time()
    resizer = _resizer_class()(
        DataSettings().max_side, "keep_ratio_largest", True, skip_reencode=as_they_are
    )
    done = 0
    for image in _images[first::step]:
        file, *_, error = resizer(io.BytesIO(image))
        assert file is not None, error
        done += 1
    return done, time.process_time() - used


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    _resizer_class()
    processes = len(os.sched_getaffinity(0))
    for line in sys.stdin:
        request = json.loads(line)
        dataset = Dataset.load(Path(request["folder"]))
        _images[:] = [image for shard in dataset.shards for _, image in dataset.images(shard)]
        parts = [(request["work"] == "as they are", i, processes) for i in range(processes)]
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            pool.map(abs, range(processes))  # they run
            began = time.perf_counter()
            done = pool.map(_resize, parts, chunksize=1)
            took = time.perf_counter() - began
            pool.close()
            pool.join()
        images, used = map(sum, zip(*done, strict=True))
        print(json.dumps({"seconds": took, "images": images, "processor": used}), file=answers)


if __name__ == "__main__":
    main()
