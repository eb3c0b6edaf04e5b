"""The suites pass good frames and fail each fault alone, saying where it is."""

import numpy as np
import pandas as pd
import pytest

from corgi_core.data.dataset import write_dataset
from corgi_core.data.expectations import check_embeddings, check_manifest
from corgi_core.data.quality import gate
from tests.helpers.made import SETTINGS, sample, samples


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gated")
    made = [*samples(30), sample("silent", captions=None), sample("many", captions=["a", "bc"])]
    raw = write_dataset(folder / "raw", made, shard_size=9)
    return gate(raw, folder / "images", SETTINGS).manifest


def test_gated_data_pass(manifest):
    result = check_manifest(manifest)
    assert result.success, result.failures
    assert list(result.table.columns) == ["expectation", "column", "success", "observed"]
    assert result.table["success"].all()


def changed(manifest: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    frame = manifest.copy()
    frame[column] = frame[column].astype(object)
    frame.at[3, column] = value
    return frame


FAULTS = [
    ("key", None, {"key"}),
    ("key", "0004", {"key"}),
    ("sha256", "not hexadecimal", {"sha256"}),
    ("width", 0, {"width"}),
    ("height", None, {"height"}),
    ("split", "validation", {"split"}),
    ("source", None, {"source"}),
    ("captions", [""], {"shortest_caption"}),
    ("captions", ["x" * 2001], {"longest_caption"}),
]


@pytest.mark.parametrize(("column", "value", "failing"), FAULTS)
def test_each_fault_fails_alone(manifest, column, value, failing):
    result = check_manifest(changed(manifest, column, value))
    assert not result.success
    assert set(result.table[~result.table["success"]]["column"]) == failing


def test_overlap_of_train_and_test_fails_and_names_what_overlaps(manifest):
    held_out = manifest[manifest["split"] == "test"].iloc[0]
    trained = manifest.index[manifest["split"] == "train"][0]

    shared_group = changed(manifest, "group", None)
    shared_group["group"] = manifest["group"]
    shared_group.at[trained, "group"] = held_out["group"]
    failures = check_manifest(shared_group).failures
    assert [f.partition(":")[0] for f in failures] == ["groups_in_both_splits"]
    assert held_out["group"] in failures[0]

    shared_image = manifest.copy()
    shared_image.at[trained, "sha256"] = held_out["sha256"]
    failures = check_manifest(shared_image).failures
    assert [f.partition(":")[0] for f in failures] == ["images_in_both_splits", "sha256"]
    assert held_out["key"] in failures[0]

    within_the_split = manifest.copy()
    other = manifest.index[manifest["split"] == "train"][1]
    within_the_split.at[trained, "group"] = manifest.at[other, "group"]
    assert check_manifest(within_the_split).success


def test_one_split_alone_or_nothing_fails(manifest):
    assert not check_manifest(manifest[manifest["split"] == "train"]).success
    assert not check_manifest(manifest[:0]).success


def stats(**changes: object) -> pd.DataFrame:
    good = {"key": ["a", "b", "b"], "norm": [4.0, 4.02, 3.98], "finite": True, "width": 16}
    return pd.DataFrame(good | changes)


def test_good_embeddings_pass():
    assert check_embeddings(stats()).success


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"finite": [True, False, True]}, {"finite"}),
        ({"norm": [4, np.nan, 4]}, {"relative_norm"}),
        ({"norm": [4, 1, 4]}, {"relative_norm"}),
        ({"norm": [4, 4, 5], "width": [16, 16, 25]}, {"width"}),
        ({"key": ["a", None, "b"]}, {"key"}),
    ],
)
def test_each_fault_of_embeddings_fails_alone(changes, failing):
    result = check_embeddings(stats(**changes))
    assert set(result.table[~result.table["success"]]["column"]) == failing
    assert len(result.failures) == 1


def test_no_embeddings_fail():
    assert not check_embeddings(stats()[:0]).success
