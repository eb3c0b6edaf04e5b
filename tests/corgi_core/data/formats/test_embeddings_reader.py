"""The reader of precomputed embeddings: every layout, and what is said of faulty ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from corgi_core.data.formats.embeddings import read
from corgi_core.data.vectors import read_vector
from corgi_core.errors import CorgiError
from tests.helpers.vectors_on_disk import WIDTHS, rows, write_clip_retrieval, write_parquet

ROWS = rows(copies=1)


def test_a_table_of_two_encoders(tmp_path: Path) -> None:
    found = list(read(UPath(write_parquet(tmp_path / "e.parquet", ROWS))))
    assert len(found) == len(ROWS)
    for sample, record in zip(found, ROWS, strict=True):
        space, z = read_vector(sample.image)
        assert (dict(zip(space.names, space.encoder_dims, strict=True)), sample.suffix) == (
            WIDTHS,
            "npy",
        )
        np.testing.assert_array_equal(z, np.concatenate([record[name] for name in WIDTHS]))
        assert sample.captions == record["captions"]
        assert sample.split == {"dev": "validation"}.get(str(record["split"]), record["split"])
        assert "." not in sample.key


def test_clip_retrievals_output_in_the_order_of_its_parts(tmp_path: Path) -> None:
    found = list(read(UPath(write_clip_retrieval(tmp_path / "out", ROWS, parts=11))))
    assert [sample.captions for sample in found] == [[r["captions"][0]] for r in ROWS]
    assert found[0].key.startswith("photos/red_apple")
    space, z = read_vector(found[-1].image)
    assert space.encoder_dims == (WIDTHS["clip_a"],)
    np.testing.assert_array_equal(z, ROWS[-1]["clip_a"])


@pytest.mark.parametrize("suffix", ["csv", "txt"])
def test_a_matrix_with_its_keys_beside_it(tmp_path: Path, suffix: str) -> None:
    np.save(tmp_path / "z.npy", np.eye(3, 5, dtype=np.float32))
    lines = ["one", "two", "three"]
    text = "key\n" * (suffix == "csv") + "\n".join(lines) + "\n"
    (tmp_path / f"z.{suffix}").write_text(text, encoding="utf-8")
    found = list(read(UPath(tmp_path / "z.npy")))
    assert [sample.key for sample in found] == lines
    assert [sample.captions for sample in found] == [None] * 3


def test_keys_become_legal_and_stay_apart(tmp_path: Path) -> None:
    keys = ["a.b", "a_b", "/photos//1.2.jpg", "x/y.png"]
    np.save(tmp_path / "z.npy", np.array([[1, 2], [1, 1e300], [3, 4], [5, 6]]))
    (tmp_path / "z.txt").write_text("\n".join(keys), encoding="utf-8")
    found = list(read(UPath(tmp_path / "z.npy")))
    first, second, *others = (sample.key for sample in found)
    assert (first, others) == ("a_b", ["photos/1_2", "x/y"])
    assert second.startswith("a_b-")
    assert found[0].group == found[1].group
    _, z = read_vector(found[1].image)
    assert np.isinf(z[1])  # more than float32 holds: the gate's business


def faulty(tmp_path: Path, fault: str) -> Path:
    path = tmp_path / "e.parquet"
    records = [dict(record) for record in ROWS[:3]]
    if fault == "no key":
        records = [{("name" if k == "key" else k): v for k, v in r.items()} for r in records]
    elif fault == "ragged":
        records[2]["clip_a"] = records[2]["clip_a"][:5]
    elif fault == "twice":
        records[2]["key"] = records[0]["key"]
    elif fault == "no vectors":
        records = [{k: v for k, v in r.items() if k not in WIDTHS} for r in records]
    elif fault == "torn":
        write_parquet(path, records)
        path.write_bytes(path.read_bytes()[:-20])
        return path
    elif fault == "missing":
        import pyarrow as pa
        import pyarrow.parquet as pq

        vectors = pa.array([[1.0, 2.0], None], pa.list_(pa.float16(), 2))
        pq.write_table(pa.table({"key": ["a", "b"], "clip": vectors}), path)
        return path
    elif fault == "unequal":
        np.save(tmp_path / "z.npy", np.ones((3, 4), dtype=np.float32))
        (tmp_path / "z.txt").write_text("a\nb\n", encoding="utf-8")
        return tmp_path / "z.npy"
    elif fault == "integers":
        np.save(tmp_path / "z.npy", np.ones((3, 4), dtype=np.int64))
        (tmp_path / "z.txt").write_text("a\nb\nc\n", encoding="utf-8")
        return tmp_path / "z.npy"
    return write_parquet(path, records)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no key", r"no key column 'key'.*it has name, split, captions"),
        ("ragged", r"embedding of 'red_house.0' is clip_a \(5\)"),
        ("twice", "has the key 'red_apple.0', which was there before"),
        ("no vectors", "no column of embeddings; it has key"),
        ("torn", "no whole Parquet file"),
        ("missing", "lacks an embedding"),
        ("unequal", r"z.npy has more rows than .*z.txt, which has 2"),
        ("integers", "float16 or float32|holds int64"),
    ],
)
def test_a_fault_is_one_sentence(tmp_path: Path, fault: str, message: str) -> None:
    with pytest.raises(CorgiError, match=message):
        list(read(UPath(faulty(tmp_path, fault))))


def test_a_caption_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = UPath(write_parquet(tmp_path / "e.parquet", ROWS[:2]))
    with pytest.raises(CorgiError, match="no caption column 'alt'"):
        list(read(path, caption_column="alt"))
