"""Small sets of precomputed embeddings on disk, of a known function of their captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "pink", "orange")
THINGS = ("apple", "car", "house", "tree", "dog", "boat", "chair", "hat")
WIDTHS = {"clip_a": 16, "clip_b": 24}


def embedding(colour: int, thing: int, copy: int) -> dict[str, np.ndarray]:
    """Two blocks: a cone's axis, the colour's and the thing's own direction, a little noise."""
    encoder_dims = {}
    for number, (name, width) in enumerate(WIDTHS.items()):
        basis = np.random.default_rng(number).standard_normal((len(COLOURS) * 2 + 1, width))
        z = 2 * basis[0] + basis[1 + colour] + basis[1 + len(COLOURS) + thing]
        z += 0.1 * np.random.default_rng([number, colour, thing, copy]).standard_normal(width)
        encoder_dims[name] = z.astype(np.float16)
    return encoder_dims


def rows(copies: int = 4) -> list[dict[str, object]]:
    """Keys, splits, two captions each and the blocks; of eight combinations, one is tested on."""
    made = []
    for colour, thing in np.ndindex(len(COLOURS), len(THINGS)):
        what = f"{COLOURS[colour]} {THINGS[thing]}"
        for copy in range(copies):
            made.append(
                {
                    "key": f"{what.replace(' ', '_')}.{copy}",
                    "split": {0: "test", 1: "dev"}.get((colour + thing) % 8, "train"),
                    "captions": [f"a {what}", f"picture of a {what}"],
                    **embedding(colour, thing, copy),
                }
            )
    return made


def write_parquet(path: Path, records: list[dict[str, object]]) -> Path:
    """A table with a column of float16 lists for each encoder, as the benchmark's data have it."""
    columns = {name: [record[name] for record in records] for name in records[0]}
    arrays = {
        name: pa.array([list(map(np.float16, v)) for v in values], pa.list_(pa.float16()))
        if name in WIDTHS
        else pa.array(values)
        for name, values in columns.items()
    }
    pq.write_table(pa.table(arrays), path)
    return path


def write_clip_retrieval(folder: Path, records: list[dict[str, object]], parts: int) -> Path:
    """img_emb/img_emb_N.npy beside metadata/metadata_N.parquet, one encoder."""
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for number, part in enumerate(np.array_split(np.arange(len(records)), parts)):
        chosen = [records[i] for i in part]
        matrix = np.stack([record["clip_a"] for record in chosen])
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", matrix)
        table = {
            "image_path": [f"photos/{record['key']}.jpg" for record in chosen],
            "caption": [record["captions"][0] for record in chosen],
        }
        pd.DataFrame(table).to_parquet(folder / "metadata" / f"metadata_{number}.parquet")
    return folder
