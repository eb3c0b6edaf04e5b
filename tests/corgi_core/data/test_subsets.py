"""Caption subsets: exact in size, nested, and a function of keys and seed alone."""

import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corgi_core.data.dataset import write_dataset
from corgi_core.data.subsets import (
    CaptionSubset,
    caption_subset,
    captions_of_other_sources,
)
from corgi_core.errors import CorgiError
from tests.helpers.made import sample, samples

LETTERS = st.characters(exclude_categories=["C"])  # as `write_shards` takes them
KEYS = st.lists(st.text(LETTERS, min_size=1, max_size=6), unique=True, min_size=1, max_size=80)
FRACTION = st.floats(0.001, 1)


def manifest(keys):
    return pd.DataFrame({"key": keys, "split": "train", "captions": [["a"]] * len(keys)})


@settings(max_examples=50)
@given(KEYS, FRACTION, FRACTION, st.integers(0, 5), st.randoms())
def test_nested_and_blind_to_order(keys, some, more, seed, random):
    some, more = sorted((some, more))
    small = caption_subset(manifest(keys), some, seed)
    shuffled = random.sample(keys, len(keys))
    large = caption_subset(manifest(shuffled), more, seed)
    assert set(small.keys.tolist()) <= set(large.keys.tolist()) <= set(keys)
    assert len(large) == math.ceil(round(more * len(keys), 9))
    assert caption_subset(manifest(shuffled), some, seed).digest == small.digest


def test_sizes_of_the_named_subsets():
    sizes = [
        len(caption_subset(manifest([str(n) for n in range(6182)]), fraction, 0))
        for fraction in (0.017, 0.1, 1.0)
    ]
    assert sizes == [106, 619, 6182]
    assert len(caption_subset(manifest([str(n) for n in range(70)]), 0.1, 0)) == 7  # not 8


def test_sharding_does_not_matter_but_the_seed_does(tmp_path):
    one = write_dataset(tmp_path / "one", samples(40), shard_size=40).manifest
    many = write_dataset(tmp_path / "many", samples(40), shard_size=3).manifest
    assert caption_subset(one, 0.3, 0).digest == caption_subset(many, 0.3, 0).digest
    seeds = {tuple(caption_subset(one, 0.3, seed).keys) for seed in range(5)}
    assert len(seeds) == 5


def test_only_captioned_training_images_count(tmp_path):
    made = [
        sample("captioned", split="train"),
        sample("held-out", split="test"),
        sample("silent", split="train", captions=None),
    ]
    table = write_dataset(tmp_path / "set", made, shard_size=3).manifest
    assert caption_subset(table, 1.0, 0).keys.tolist() == ["captioned"]


def test_round_trip(tmp_path):
    subset = caption_subset(manifest(["é", "b", "a"]), 0.5, 7)
    subset.save(tmp_path / "a")
    subset.save(tmp_path / "b")
    loaded = CaptionSubset.load(tmp_path / "a")
    assert (loaded.digest, loaded.fraction, loaded.seed) == (subset.digest, 0.5, 7)
    assert loaded.keys.tolist() == subset.keys.tolist()
    first, second = ((tmp_path / n / "captions.parquet").read_bytes() for n in "ab")
    assert first == second


def test_faults(tmp_path):
    for fraction in (0, -0.1, 1.1):
        with pytest.raises(CorgiError, match="share"):
            caption_subset(manifest(["a"]), fraction, 0)
    with pytest.raises(CorgiError, match="no caption subset"):
        CaptionSubset.load(tmp_path)


def of_two_sources(tmp_path):
    made = [
        sample("a1", split="train", source="noto (Apache-2.0)"),
        sample("a2", split="test", source="noto (Apache-2.0)"),
        sample("a3", split="train", source="noto (Apache-2.0)", captions=None),
        sample("b1", split="train", source="notorious"),
        sample("b2", split="test", source="notorious"),
    ]
    return write_dataset(tmp_path / "set", made, shard_size=2)


def test_language_free_captions_are_those_of_the_other_sources(tmp_path):
    images = of_two_sources(tmp_path)
    subset = captions_of_other_sources(images.manifest, "noto", seed=3)
    assert subset.keys.tolist() == ["b1"]
    assert (subset.fraction, subset.seed) == (0.5, 3)
    assert images.keys("train", "noto") == ("a1", "a3")
    assert images.keys("test", "notorious") == ("b2",)
    assert images.keys("train") == ("a1", "a3", "b1")


def test_a_source_must_be_there_and_not_the_only_one_with_captions(tmp_path):
    manifest = of_two_sources(tmp_path).manifest
    with pytest.raises(CorgiError, match=r"'nobody'.*own: noto, notorious"):
        captions_of_other_sources(manifest, "nobody", seed=0)
    with pytest.raises(CorgiError, match="no captions but those of noto"):
        captions_of_other_sources(manifest[manifest["key"] != "b1"], "noto", seed=0)
