"""Fitting a bank to more embeddings than fit in memory: `python -m benchmarks.gaussians`.

Writes a store of float16 embeddings, a mixture of k narrow Gaussians within a cone, to a temporary
folder (2,000,000 × 1536: 6 GB, removed afterwards), and fits k Gaussians to a quarter of it and to
all of it, each in a fresh process. Prints the size of the sample, times, the process's peak
resident memory, and the error of moments against the exact ones of components that were found.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fresh_process import in_fresh_process, peak_gb
from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import write_dataset
from corgi_core.data.shards import Sample
from corgi_core.io.files import write_json
from corgi_core.progress import listening

SHARD = 20_000  # embeddings
SPREAD = 0.5  # standard deviation within a component
CHECKED = 4  # components
SAMPLING = "sampling embeddings"


def labels_of(shard: int, k: int) -> np.ndarray:
    """The component of each embedding of a shard."""
    return np.random.default_rng([1, shard]).integers(k, size=SHARD)


def centres_of(k: int, width: int) -> np.ndarray:
    """The components' means [k, width]: a cone about one direction."""
    random = np.random.default_rng(0)
    shared = random.standard_normal((1, width), dtype=np.float32)
    return 0.7 * shared + 0.7 * random.standard_normal((k, width), dtype=np.float32)


def write_store(folder: Path, count: int, width: int, k: int) -> ArrayStore:
    """A store of `count` embeddings, in shards of 20,000."""
    shards, centres = max(1, count // SHARD), centres_of(k, width)
    samples = [Sample(f"{n:05d}", b"", None, "train", "made", str(n), "png") for n in range(shards)]

    def compute(shard: str) -> dict[str, np.ndarray]:
        random = np.random.default_rng([2, int(shard)])
        z = random.standard_normal((SHARD, width), dtype=np.float32)
        z *= SPREAD
        z += centres[labels_of(int(shard), k)]
        keys = np.array([f"{shard}-{row:05d}" for row in range(SHARD)])
        return {"keys": keys, "image": z.astype(np.float16)}

    dataset = write_dataset(folder / "images", samples, shard_size=1)
    return compute_missing(folder / "store", dataset, {"encoder_dims": [width]}, compute, "making")


def first_shards(store: ArrayStore, count: int) -> Iterator[np.ndarray]:
    """The first `count` embeddings of the store, a shard at a time."""
    return islice(store.chunks("image"), count // SHARD)


def fit_in_this_process(folder: Path, count: int, k: int, save: Path) -> dict[str, Any]:
    """Fit, save the bank, and say how it went; peak_gb is of this process, in 10⁹ bytes."""
    from corgi_core.config import GaussianSettings
    from corgi_core.gaussians.fit import ITERATIONS, fit_bank
    from corgi_core.gaussians.stream import EmbeddingStream

    sampled: list[float] = []

    def listener(what: str, done: int, total: int) -> None:
        if what == SAMPLING:
            sampled.append(time.monotonic())

    store = ArrayStore.load(folder)
    whole = EmbeddingStream.of_store(store, "image")
    stream = replace(whole, counts=whole.counts[: count // SHARD])
    before = peak_gb()
    with listening(listener):
        bank, fit = fit_bank(stream, k, store.spec["encoder_dims"], GaussianSettings())
    bank.save(save)
    sampling = sampled[-1] - sampled[0] if sampled else 0.0
    return {
        "system": "corgi", "task": "gaussian bank", "count": count, "width": bank.width,
        "k": fit.k, "sample": fit.kmeans_sample, "iterations": ITERATIONS, "warnings": fit.warnings,
        "sampling_seconds": round(sampling, 1),
        "kmeans_seconds": round(fit.kmeans_seconds - sampling, 1),
        "moments_seconds_per_million": round(fit.moments_seconds / count * 1e6, 1),
        "peak_gb": round(peak_gb(), 2),
        "imports_gb": round(before, 2),
    }  # fmt: skip


def errors(store: ArrayStore, count: int, k: int, bank_folder: Path) -> dict[str, Any]:
    """Largest relative errors against exact moments of components that are clusters.

    k-means may split or join components; those whose cluster has exactly their members are
    compared, their means and standard deviations taken from all members at once in float64.
    """
    from corgi_core.gaussians.bank import GaussianBank

    bank = GaussianBank.load(bank_folder)
    labels = np.concatenate([labels_of(shard, k) for shard in range(count // SHARD)])
    sizes, centres = np.bincount(labels, minlength=k), centres_of(k, bank.width)
    nearest = (centres @ bank.means.numpy().T).argmax(axis=1)
    found = np.flatnonzero(bank.sizes.numpy()[nearest] == sizes)
    members: dict[int, list[np.ndarray]] = {int(c): [] for c in found[:CHECKED]}
    for shard, chunk in enumerate(first_shards(store, count)):
        for component, parts in members.items():
            parts.append(chunk[labels_of(shard, k) == component].astype(np.float64))
    mean_error = std_error = 0.0
    for component, parts in members.items():
        exact, i = np.concatenate(parts), nearest[component]
        mean, std = exact.mean(axis=0), exact.std(axis=0)
        off = np.abs(bank.means[i].numpy() - mean) / std
        mean_error = max(mean_error, float(off.max()))
        off = np.abs(bank.std[i].numpy() / std - 1)
        std_error = max(std_error, float(off.max()))
    return {
        "components_found": len(found), "components_checked": len(members),
        "mean_error_in_std": mean_error if members else None,
        "std_error_relative": std_error if members else None,
    }  # fmt: skip


def measure(count: int, width: int, k: int) -> list[dict[str, Any]]:
    """One row for a quarter of the embeddings and one for all of them."""
    count = max(SHARD, count // SHARD * SHARD)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = write_store(folder, count, width, k)
        for part in sorted({max(SHARD, count // 4 // SHARD * SHARD), count}):
            bank = folder / f"bank-{part}"
            row = in_fresh_process(fit_in_this_process, folder / "store", part, k, bank)
            row |= errors(store, part, row["k"], bank) | {"cpus": os.cpu_count()}
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=2_000_000)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--k", type=int, default=1024)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    asked = parser.parse_args()
    rows = measure(asked.count, asked.width, asked.k)
    if asked.json:
        write_json(asked.json, rows)


if __name__ == "__main__":
    main()
