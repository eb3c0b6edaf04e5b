"""Which captions are evaluated, read from the shards that hold them, and in which chunks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.ragged import RaggedArray
from corgi_core.data.shards import Sample
from corgi_core.errors import CorgiError
from corgi_core.evaluation.held_out import Chunks, HeldOut


@dataclass(frozen=True)
class Named:
    digest: str


def sample(n: int) -> Sample:
    """Two in three are held out; every fifth has no caption, the others one to three."""
    captions = [f"caption {c} of {n}" for c in range(1 + n % 3)] if n % 5 else None
    split = "train" if n % 3 == 1 else "test"
    return Sample(f"key{n:03}", b"picture", captions, split, ("a CC0", "b")[n % 2], f"group{n}")


SAMPLES = [sample(n) for n in range(100)]
EXPECTED = [s for s in SAMPLES if s.split == "test" and s.captions]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("data") / "images", SAMPLES, shard_size=7)


@pytest.fixture(scope="module")
def stores(images: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[ArrayStore, ...]:
    folder = tmp_path_factory.mktemp("stores")

    def image(shard: str) -> dict[str, np.ndarray]:
        keys = images.rows(shard, "key")["key"].to_numpy(dtype=str)
        return {"keys": keys, "image": np.array([[int(key[3:])] for key in keys], np.float16)}

    def text(shard: str) -> dict[str, np.ndarray | RaggedArray]:
        rows = images.rows(shard)
        pairs = [(k, c) for k, cs in zip(rows["key"], rows["captions"], strict=True)
                 for c in range(len(cs or []))]  # fmt: skip
        values = np.array([[int(k[3:]) + c / 4] for k, c in pairs], np.float16).reshape(-1, 1)
        lengths = np.array([1 + int(k[3:]) % 4 for k, _ in pairs], np.int64)
        tokens = RaggedArray.of_lengths(np.repeat(values, lengths, axis=0), lengths)
        return {"keys": np.array([k for k, _ in pairs], str), "text": values, "tokens": tokens}

    spec = {"encoder": "made"}
    return (
        compute_missing(folder / "image", images, spec, image, "images"),
        compute_missing(folder / "text", images, spec, text, "texts"),
    )


@pytest.mark.parametrize("count", [2, 3, 17, 10**6])
def test_evenly_spaced_first_captions_are_chosen(images: Dataset, count: int) -> None:
    found = HeldOut.of(images, count)
    number = min(count, len(EXPECTED))
    rows = np.linspace(0, len(EXPECTED) - 1, number).round().astype(int)
    assert list(found.keys) == [EXPECTED[row].key for row in rows]
    assert list(found.captions) == [f"caption 0 of {int(key[3:])}" for key in found.keys]
    assert found.spaced(2).keys == (EXPECTED[0].key, EXPECTED[-1].key)


@pytest.mark.parametrize("count", [2, 17, 30, 10**6])
def test_as_many_as_wanted_are_chosen_whatever_is_left_out(images: Dataset, count: int) -> None:
    """A protocol of 30,000 images is not lost to one that does not count."""
    out = {each.key for each in EXPECTED[::4]} | {SAMPLES[1].key, "nobody"}
    counting = [each.key for each in EXPECTED if each.key not in out]
    found = HeldOut.of(images, count, left_out=out).keys
    rows = np.linspace(0, len(counting) - 1, min(count, len(counting))).round().astype(int)
    assert list(found) == [counting[row] for row in rows]
    assert len(found) == min(count, len(counting))


def test_no_manifest_is_read_that_has_none_of_them(
    images: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    rows = Dataset.rows

    def noted(self: Dataset, shard: str, *columns: str) -> object:
        read.append(shard)
        return rows(self, shard, *columns)

    monkeypatch.setattr(Dataset, "rows", noted)
    found = HeldOut.of(images, 3)
    assert read == list(found.shards)
    assert len(images.shards) > len(read) == 3


def test_of_one_source_by_its_name(images: Dataset) -> None:
    found = HeldOut.of(images, 1000, source="a")
    assert list(found.keys) == [s.key for s in EXPECTED if s.source == "a CC0"]
    with pytest.raises(CorgiError, match="0 test images with captions are too few"):
        HeldOut.of(images, 1000, source="nobody")


def test_rows_come_from_their_shards_in_the_order_that_is_asked(
    images: Dataset, stores: tuple[ArrayStore, ...]
) -> None:
    held_out = HeldOut.of(images, 1000)
    rows = np.random.default_rng(0).permutation(len(held_out))[:20]
    captions = held_out.read(rows, *stores)
    numbers = [int(held_out.keys[row][3:]) for row in rows]
    assert captions.image[:, 0].tolist() == captions.text[:, 0].tolist() == numbers
    assert captions.tokens.lengths.tolist() == [1 + n % 4 for n in numbers]
    assert captions.tokens.values[captions.tokens.offsets[:-1], 0].tolist() == numbers


def test_an_image_without_a_row_is_named(images: Dataset, stores: tuple[ArrayStore, ...]) -> None:
    held_out = HeldOut(images.shards[:1], ("key999",), ("a caption",))
    with pytest.raises(CorgiError, match="no row for 'key999'"):
        held_out.image_embeddings(np.array([0]), stores[0])


def test_each_caption_is_in_one_chunk_of_each_case(images: Dataset) -> None:
    held_out = HeldOut.of(images, 20)
    chunks = Chunks(held_out, (Named("x"), Named("y")), 6, displayed=(0, 10, 19))
    assert len(chunks.shards) == 2 * 4
    assert chunks.shards == sorted(chunks.shards)
    for case in chunks.cases:
        parts = [chunks.part(shard) for shard in chunks.shards_of(case)]
        assert [of for of, _ in parts] == [case] * 4
        assert parts[0][1].tolist() == [0, 10, 19]
        assert sorted(np.concatenate([rows for _, rows in parts]).tolist()) == list(range(20))
    assert [chunks.is_displayed(s) for s in chunks.shards_of(Named("y"))] == [True] + 3 * [False]
    digests = {chunks.shard_digest(shard) for shard in chunks.shards}
    assert len(digests) == 8
    others = Chunks(held_out, (Named("y"),), 6, displayed=(0, 10, 19))
    assert {others.shard_digest(shard) for shard in others.shards} < digests
