"""Caption subsets: exact in size, nested, and a function of keys and seed alone."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corgi_core.data import subsets
from corgi_core.data.dataset import write_dataset
from corgi_core.data.splits import rank_of
from corgi_core.data.subsets import (
    HIGHEST,
    CaptionSubset,
    caption_subset,
    captions_of_other_sources,
    threshold_of,
)
from corgi_core.errors import CorgiError
from corgi_core.io.files import read_json, write_json
from tests.helpers.made import sample, samples
from tests.helpers.whole import manifest_of

LETTERS = st.characters(exclude_categories=["C"])  # as `write_shards` takes them
KEYS = st.lists(st.text(LETTERS, min_size=1, max_size=6), unique=True, min_size=1, max_size=80)


def training(count, **about):
    return [sample(f"{number:05d}", split="train", **about) for number in range(count)]


def keys_of(images, subset):
    """The subset's keys, asked for a shard at a time."""
    found = []
    for shard in images.shards:
        keys = images.rows(shard, "key")["key"].to_numpy(dtype=str)
        found += keys[subset.of(images).among(shard, keys)].tolist()
    return sorted(found)


def ranked(keys, seed):
    return sorted(keys, key=lambda key: rank_of(key, seed))


@settings(max_examples=50)
@given(KEYS, st.data(), st.integers(0, 5), st.randoms())
def test_the_threshold_is_the_rank_of_the_last_key(keys, data, seed, random):
    """In whatever order and parts the keys come, and where ranks begin alike."""
    count = data.draw(st.integers(1, len(keys)))
    shuffled = random.sample(keys, len(keys))
    cut = data.draw(st.integers(0, len(keys)))
    parts = [np.array(part, dtype=str) for part in (shuffled[:cut], shuffled[cut:])]
    assert threshold_of(lambda: parts, count, seed) == rank_of(ranked(keys, seed)[count - 1], seed)


def test_ranks_that_begin_alike_are_ordered_by_the_rest(monkeypatch):
    """As if all ranks had the same first two bytes; one ends with a zero byte."""
    ranks = {"a": b"\1" * 32, "b": b"\1" * 31 + b"\0", "c": b"\1" * 31 + b"\2", "d": b"\2" * 32}
    monkeypatch.setattr(
        subsets, "ranks_of", lambda keys, _: np.array([ranks[key] for key in keys], dtype="S32")
    )
    found = [
        threshold_of(lambda: [np.array([*"cd"]), np.array([*"ab"])], n, 0) for n in range(1, 5)
    ]
    assert found == [ranks[key].hex() for key in "bacd"]


@pytest.mark.parametrize("shard_size", [9, 40])
def test_subsets_are_the_first_by_rank_and_nested(tmp_path, shard_size):
    images = write_dataset(tmp_path / "set", training(40), shard_size)
    keys = manifest_of(images)["key"].tolist()
    for seed in range(2):
        for fraction in (0.001, 0.3, 0.99, 1.0):
            subset = caption_subset(images, fraction, seed)
            assert len(subset) == math.ceil(fraction * 40)
            assert keys_of(images, subset) == sorted(ranked(keys, seed)[: len(subset)])


def test_sizes_of_the_named_subsets(tmp_path, monkeypatch):
    images = write_dataset(tmp_path / "set", training(70), shard_size=70)
    assert len(caption_subset(images, 0.1, 0)) == 7  # not 8
    monkeypatch.setattr(subsets, "_count", lambda _: 6182)
    monkeypatch.setattr(subsets, "threshold_of", lambda *_: HIGHEST)
    sizes = [len(caption_subset(images, fraction, 0)) for fraction in (0.017, 0.1, 1.0)]
    assert sizes == [106, 619, 6182]


def test_sharding_does_not_matter_but_the_seed_and_more_data_do(tmp_path):
    one = write_dataset(tmp_path / "one", samples(40), shard_size=40)
    many = write_dataset(tmp_path / "many", samples(40), shard_size=3)
    more = write_dataset(tmp_path / "more", samples(60), shard_size=40)
    for fraction in (0.3, 1.0):
        digest = caption_subset(one, fraction, 0).digest
        assert caption_subset(many, fraction, 0).digest == digest
        assert caption_subset(more, fraction, 0).digest != digest
    seeds = {tuple(keys_of(one, caption_subset(one, 0.3, seed))) for seed in range(5)}
    assert len(seeds) == 5
    assert caption_subset(one, 0.3, 0).of(one).digest != caption_subset(one, 0.3, 0).of(many).digest


def test_only_captioned_training_images_count(tmp_path):
    made = [
        sample("captioned", split="train"),
        sample("held-out", split="test"),
        sample("silent", split="train", captions=None),
    ]
    images = write_dataset(tmp_path / "set", made, shard_size=3)
    for fraction in (0.5, 1.0):
        subset = caption_subset(images, fraction, 0)
        assert keys_of(images, subset) == ["captioned"]
        asked = np.array(["held-out", "captioned", "captioned", "silent", "unknown"])
        among = subset.of(images).among("00000", asked)
        assert among.tolist() == [False, True, True, False, False]
    assert not caption_subset(images, 1.0, 0).of(images).among("00000", asked[:0]).any()


def test_a_subset_holds_no_keys(tmp_path):
    few = write_dataset(tmp_path / "a", samples(10), shard_size=10)
    many = write_dataset(tmp_path / "b", samples(400), shard_size=100)
    sizes = [len(pickle.dumps(caption_subset(each, 0.5, 0).of(each))) for each in (few, many)]
    assert abs(sizes[0] - sizes[1]) < 4  # digits of the count
    assert sizes[1] < 600


def test_round_trip(tmp_path):
    images = write_dataset(tmp_path / "set", training(9), shard_size=9)
    subset = caption_subset(images, 0.5, 7)
    subset.save(tmp_path / "a")
    subset.save(tmp_path / "b")
    loaded = CaptionSubset.load(tmp_path / "a")
    assert loaded == subset
    assert loaded.digest == subset.digest
    assert (loaded.fraction, loaded.seed, len(loaded)) == (0.5, 7, 5)
    first, second = ((tmp_path / n / "captions.json").read_bytes() for n in "ab")
    assert first == second


def test_faults(tmp_path):
    images = write_dataset(tmp_path / "set", samples(4), shard_size=4)
    for fraction in (0, -0.1, 1.1):
        with pytest.raises(CorgiError, match="share"):
            caption_subset(images, fraction, 0)
    silent = write_dataset(tmp_path / "silent", training(4, captions=None), shard_size=4)
    with pytest.raises(CorgiError, match="no training image has a caption"):
        caption_subset(silent, 0.5, 0)


def test_subsets_that_are_absent_or_of_another_version_are_refused(tmp_path):
    with pytest.raises(CorgiError, match="no caption subset"):
        CaptionSubset.load(tmp_path)
    (tmp_path / "captions.parquet").write_bytes(b"keys")
    with pytest.raises(CorgiError, match="older version of Corgi: it is a table of keys"):
        CaptionSubset.load(tmp_path)
    CaptionSubset(0.5, 0, HIGHEST, 3).save(tmp_path)
    write_json(tmp_path / "captions.json", read_json(tmp_path / "captions.json") | {"format": 9})
    with pytest.raises(CorgiError, match=r"another version of Corgi \(format 9"):
        CaptionSubset.load(tmp_path)


def of_two_sources(tmp_path, *, captioned=True):
    made = [
        sample("a1", split="train", source="noto (Apache-2.0)"),
        sample("a2", split="test", source="noto (Apache-2.0)"),
        sample("a3", split="train", source="noto (Apache-2.0)", captions=None),
        sample("b1", split="train", source="notorious", captions=["b"] if captioned else None),
        sample("b2", split="test", source="notorious"),
    ]
    return write_dataset(tmp_path / "set", made, shard_size=2)


def test_language_free_captions_are_those_of_the_other_sources(tmp_path):
    images = of_two_sources(tmp_path)
    subset = captions_of_other_sources(images, "noto", seed=3)
    assert keys_of(images, subset) == ["b1"]
    assert (subset.fraction, subset.seed, len(subset)) == (0.5, 3, 1)
    assert images.keys("train", "noto") == ("a1", "a3")
    assert images.keys("test", "notorious") == ("b2",)
    assert images.keys("train") == ("a1", "a3", "b1")


def test_a_source_must_be_there_and_not_the_only_one_with_captions(tmp_path):
    with pytest.raises(CorgiError, match=r"'nobody'.*own: noto, notorious"):
        captions_of_other_sources(of_two_sources(tmp_path), "nobody", seed=0)
    silent = of_two_sources(tmp_path / "silent", captioned=False)
    with pytest.raises(CorgiError, match="no captions but those of noto"):
        captions_of_other_sources(silent, "noto", seed=0)
