"""What is done with manifests, at sizes whose images no laptop holds.

Simulated are the rows: keys, digests and groups are computed from their numbers, a shard of 1,000
at a time (for `expectations` their hashes), and no Parquet file is written. What is done with them
is the real code, an operation in a process of its own:
`python -m benchmarks.scale_steps.manifests OPERATION ROWS`.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.scale_steps.watched import watched

SHARD = 1000  # rows
LOOKED_UP = 100_000  # values, half of them there
SUBSET = 0.1  # of the captions
CHECKED = 100  # shards whose share of it is counted
PART = 100_000  # hashes that are computed at once


def main(operation: str, rows: int) -> None:
    """Do one operation, and print its seconds and what it found."""
    began = time.perf_counter()
    found = OPERATIONS[operation](rows)
    print(json.dumps({"seconds": time.perf_counter() - began, "found": found}))


def simulate(rows: int) -> str:
    """A table in Markdown: every operation with its seconds, peak memory and what it found."""
    lines = [f"| {rows:,} rows | s | peak GB | |", "|---|--:|--:|---|"]
    for name in OPERATIONS:
        done = watched([sys.executable, "-m", __name__, name, str(rows)])
        row = json.loads(done.output.splitlines()[-1])
        cells = f"{row['seconds']:.0f} | {done.peak / 1e9:.2f} | {row['found']}"
        lines.append(f"| {name} | {cells} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def keys_of(shard: int, prefix: str) -> list[str]:
    """The keys, digests or groups, by the prefix, of one shard's rows."""
    return [f"{prefix}{number}" for number in range(shard * SHARD, (shard + 1) * SHARD)]


def append(rows: int) -> str:
    """Columns of hashes of all keys, digests and groups, as `Present` has them; then look-ups."""
    from corgi_core.data.hashes import HashColumn

    columns = {prefix: HashColumn() for prefix in ("key", "sha", "group")}
    for shard in range(rows // SHARD):
        for prefix, column in columns.items():
            column.add(keys_of(shard, prefix), shard if prefix != "group" else shard % 2)
    some = np.linspace(0, 2 * rows - 1, LOOKED_UP).astype(np.int64).tolist()
    began = time.perf_counter()
    found = columns["key"].labels_of([f"key{number}" for number in some])
    seconds = time.perf_counter() - began
    there = sum(number < rows for number in some)
    right = sum(number // SHARD in found.get(i, ()) for i, number in enumerate(some[:there]))
    return f"{right:,} of {there:,} found, {len(found) - there} by chance, in {seconds:.2f} s"


def expectations(rows: int) -> str:
    """Hashes that come twice among all rows' keys, as the gate's check looks for them.

    The hashes are random, but for one that is there twice.
    """
    from corgi_core.data.expectations import repeated, sorted_hashes

    def parts() -> Iterator[NDArray[np.uint64]]:
        random = np.random.default_rng(0)
        for first in range(0, rows, PART):
            hashes = random.integers(4, 2**64, min(PART, rows - first), dtype=np.uint64)
            if not first:
                hashes[1] = hashes[0]
            yield hashes

    return f"{len(repeated(sorted_hashes(parts())))} to compare"


def dataset(rows: int) -> str:
    """`dataset.json` with a record of every shard: written, read, its counts and its digest."""
    from corgi_core.data.dataset import Dataset, write_index
    from corgi_core.data.manifest import Count, ShardRecord

    def record(shard: int) -> ShardRecord:
        counts = tuple(
            Count("made", split, images, images, images, images)
            for split, images in (("test", SHARD // 10), ("train", SHARD - SHARD // 10))
        )
        return ShardRecord(f"{shard:05d}", SHARD, f"{shard:016x}", f"{shard:016x}", counts)

    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder), map(record, range(rows // SHARD)))
        size = (Path(folder) / "dataset.json").stat().st_size
        there = Dataset.load(Path(folder))
        held_out = there.counts.set_index("split")["images"]["test"]
        return f"{held_out:,} held out, digest {there.digest}, dataset.json {size / 1e6:.0f} MB"


def caption_subset(rows: int) -> str:
    """The highest rank of a caption subset of a tenth of the rows, and who is in it of a shard."""
    from corgi_core.data.splits import ranks_of
    from corgi_core.data.subsets import threshold_of

    def keys() -> Iterator[NDArray[np.str_]]:
        return (np.array(keys_of(shard, "key")) for shard in range(rows // SHARD))

    count = math.ceil(SUBSET * rows)
    highest = bytes.fromhex(threshold_of(keys, count, seed=0))
    checked = itertools.islice(keys(), CHECKED)
    share = np.mean([(ranks_of(some, seed=0) <= highest).mean() for some in checked])
    return f"{count:,} in the subset, {share:.1%} of the first {CHECKED} shards"


def epoch(rows: int) -> str:
    """Every batch of an epoch in the order of training, with the settings' own window."""
    from corgi_core.config import preset_named
    from corgi_core.training.order import TrainingOrder

    training = preset_named("paper").prior.training
    shards, window = [SHARD] * (rows // SHARD), training.shuffle_window
    order = TrainingOrder(shards, training.batch_size, training.seed, window)
    total = squares = 0
    for first in range(0, rows, training.batch_size):
        end = min(rows, first + training.batch_size)
        batch = order.rows_between(first, end).numpy().astype(np.uint64)
        total += int(batch.sum())
        squares += int((batch**2).sum())  # modulo 2⁶⁴
    last = rows - 1
    once = total == last * rows // 2
    once &= (squares - last * rows * (2 * last + 1) // 6) % 2**64 == 0
    return f"{'each row once' if once else 'NOT each row once'}, windows of {window:,}"


def near_twins(rows: int) -> str:
    """The moves of near twins' groups, as the gate decides them, among random hashes.

    The first image of every shard has its hash again, with four bits flipped, at the shard's end.
    """
    from corgi_core.data.splits import SPLITS
    from corgi_core.data.twins import HashedRows, moves_of

    def read(shard: str) -> HashedRows:
        number = int(shard)
        hashes = np.random.default_rng(number).integers(0, 2**64, SHARD, dtype=np.uint64)
        hashes[-1] = hashes[0] ^ np.uint64(0x8000_0400_0020_0001)
        groups, splits = keys_of(number, "group"), [*SPLITS[:2]] * (SHARD // 2)
        return HashedRows(groups, groups, splits, hashes, np.ones(SHARD, bool))

    shards = [f"{number:05d}" for number in range(rows // SHARD)]
    batches = [2 * number // len(shards) for number in range(len(shards))]
    moves = moves_of(shards, batches, read, bits=4)
    return f"{len(moves.groups):,} of {len(shards):,} planted twins moved"


OPERATIONS: dict[str, Callable[[int], str]] = {
    "append": append, "expectations": expectations, "dataset": dataset,
    "caption_subset": caption_subset, "epoch": epoch, "near_twins": near_twins,
}  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
