"""What is there is found by key and by image, in a few bytes of memory a row."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corgi_core.data.dataset import write_dataset, write_index
from corgi_core.data.manifest import MANIFEST, Count, ShardRecord, manifest_path
from corgi_core.data.present import Match, Present
from tests.helpers.made import sample

ROOT = Path(__file__).parents[3]
MEASURED = """
import resource, sys
from pathlib import Path
from corgi_core.data.dataset import Dataset
from corgi_core.data.present import Present

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def index(folder):
    there = Present(Dataset.load(Path(folder)))
    return there, there.matches(["0-7", "nobody"], ["", ""]), there.splits_of(["3-3"])

first = index(sys.argv[1])  # one shard: what the libraries take
before = peak()
there, matches, splits = index(sys.argv[2])
print(peak() - before, matches[0].key, matches[1], splits)
"""


def made_manifests(folder: Path, shards: int, rows: int) -> Path:
    """A dataset without images: so many shards' manifests."""
    random, records = np.random.default_rng(0), []
    (folder / "manifest").mkdir(parents=True)
    for number in range(shards):
        digests = random.integers(0, 256, (rows, 32), dtype=np.uint8)
        names = [f"{number}-{row}" for row in range(rows)]
        columns = {
            "key": names, "shard": [f"{number:05d}"] * rows,
            "sha256": [digest.tobytes().hex() for digest in digests],
            "width": [8] * rows, "height": [8] * rows, "captions": [None] * rows,
            "split": ["train", "test"] * (rows // 2), "source": ["made"] * rows, "group": names,
        }  # fmt: skip
        name = f"{number:05d}"
        pq.write_table(pa.table(columns, schema=MANIFEST), manifest_path(folder, name))
        counts = tuple(Count("made", s, rows // 2, rows // 2, 0, 0) for s in ("train", "test"))
        records.append(ShardRecord(name, rows, name, name, counts))
    write_index(folder, records)
    return folder


def test_a_million_rows_take_less_than_forty_bytes_each(tmp_path):
    one = made_manifests(tmp_path / "one", 1, 5_000)
    many = made_manifests(tmp_path / "many", 200, 5_000)
    said = subprocess.check_output(
        [sys.executable, "-c", MEASURED, str(one), str(many)], cwd=ROOT, text=True
    ).split(maxsplit=1)
    assert said[1].strip() == "0-7 None ['test']"
    assert int(said[0]) * 1024 < 40 * 1_000_000


def test_an_image_is_found_before_a_key_and_an_added_key_is_named_so(tmp_path):
    made = [
        sample("a"),
        sample("b", split="validation"),
        sample("c", split="train", group="b twin"),
    ]
    dataset = write_dataset(tmp_path / "set", made, shard_size=2)
    there = Present(dataset)
    sha256 = {each.key: hashlib.sha256(each.image).hexdigest() for each in made}
    added = write_dataset(tmp_path / "added", [sample("new")], shard_size=2)
    there.add(["new"], manifest_path(added.folder, "00000"))
    asked = [("c", sha256["a"]), ("x", sha256["c"]), ("b", "0"), ("new", "1"), ("y", "2")]
    assert there.matches(*map(list, zip(*asked, strict=True))) == [
        Match("a", same_image=True, added=False),
        Match("c", same_image=True, added=False),
        Match("b", same_image=False, added=False),
        Match("new", same_image=False, added=True),
        None,
    ]
    assert there.splits_of(["b", "b twin", "new"]) == ["validation", "train", None]
    assert Present(None).matches(["a"], [sha256["a"]]) == [None]
