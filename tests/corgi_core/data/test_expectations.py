"""The suites pass good frames and fail each fault alone, saying where it is."""

import weakref
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from corgi_core.data import expectations
from corgi_core.data.dataset import write_dataset
from corgi_core.data.expectations import SuiteResult, check_embeddings, check_manifest
from corgi_core.data.quality import gate
from tests.helpers.made import SETTINGS, sample, samples
from tests.helpers.whole import in_parts, manifest_of


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gated")
    made = [*samples(30), sample("silent", captions=None), sample("many", captions=["a", "bc"])]
    raw = write_dataset(folder / "raw", made, shard_size=9)
    return manifest_of(gate(raw, folder / "images", SETTINGS))


def checked(manifest: pd.DataFrame, size: int = 11) -> SuiteResult:
    """The verdict on a manifest that comes in parts of so many rows, in batches of two parts."""
    with mock.patch.object(expectations, "BATCH", size + 1):
        return check_manifest(in_parts(manifest, size))


def test_gated_data_pass(manifest):
    result = checked(manifest)
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
    ("split", "dev", {"split"}),
    ("source", None, {"source"}),
    ("captions", [""], {"shortest_caption"}),
    ("captions", ["x" * 2001], {"longest_caption"}),
]


@pytest.mark.parametrize(("column", "value", "failing"), FAULTS)
def test_each_fault_fails_alone(manifest, column, value, failing):
    result = checked(changed(manifest, column, value))
    assert not result.success
    assert set(result.table[~result.table["success"]]["column"]) == failing


@pytest.mark.parametrize("split", ["validation", "test"])
def test_overlap_of_two_splits_fails_and_names_what_overlaps(manifest, split):
    held_out = manifest[manifest["split"] == split].iloc[0]
    trained = manifest.index[manifest["split"] == "train"][0]

    shared_group = changed(manifest, "group", None)
    shared_group["group"] = manifest["group"]
    shared_group.at[trained, "group"] = held_out["group"]
    failures = checked(shared_group).failures
    assert [f.partition(":")[0] for f in failures] == ["groups_in_two_splits"]
    assert held_out["group"] in failures[0]

    shared_image = manifest.copy()
    shared_image.at[trained, "sha256"] = held_out["sha256"]
    failures = checked(shared_image).failures
    assert [f.partition(":")[0] for f in failures] == ["images_in_two_splits", "sha256"]
    assert held_out["key"] in failures[0]

    within_the_split = manifest.copy()
    other = manifest.index[manifest["split"] == "train"][1]
    within_the_split.at[trained, "group"] = manifest.at[other, "group"]
    assert checked(within_the_split).success


def test_one_split_alone_or_nothing_fails(manifest):
    assert not checked(manifest[manifest["split"] == "train"]).success
    assert not checked(manifest[:0]).success


def test_many_faults_are_counted_and_the_first_of_them_named(manifest):
    """Whatever the parts: as Great Expectations says of all rows at once."""
    frame = manifest.copy()
    frame.loc[2:20, "source"] = None
    frame.loc[4:9, "width"] = -frame["width"]
    frame.loc[20:26, "key"] = frame["key"].iloc[20]
    at_once = checked(frame, size=len(frame))
    assert at_once.failures == [
        "key: column values to be unique, but 7 unexpected: "
        + ", ".join([str(frame["key"].iloc[20])] * 5),
        "source: column values to not be null, but 19 unexpected: None, None, None, None, None",
        "width: column values to be between, but 6 unexpected: -8, -8, -8, -8, -8",
    ]
    for size in (5, 31):
        pd.testing.assert_frame_equal(checked(frame, size).table, at_once.table)


def test_no_batch_has_all_rows(manifest):
    """Of 256 rows in parts of ten, in batches of forty, eighty are in memory at most."""
    alive: list[weakref.ref[pd.DataFrame]] = []
    frame = pd.concat([manifest] * 8, ignore_index=True)
    numbers = frame.index.astype(str)
    frame = frame.assign(key=numbers, group=numbers, sha256=[f"{int(n):064x}" for n in numbers])

    def rows(*columns):
        for part in in_parts(frame, 10)(*columns):
            alive.append(weakref.ref(part))
            assert sum(len(ref()) for ref in alive if ref() is not None) <= 80
            yield part

    with mock.patch.object(expectations, "BATCH", 40):
        assert check_manifest(rows).success
    assert len(frame) == 256


def stats(**changes: object) -> pd.DataFrame:
    good = {"key": ["a", "b", "b"], "norm": [4.0, 4.02, 3.98], "finite": True, "width": 16}
    return pd.DataFrame(good | changes)


def parts(frame: pd.DataFrame) -> list[pd.DataFrame]:
    return [frame[:2], frame[2:]]


def test_good_embeddings_pass():
    assert check_embeddings(parts(stats())).success


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"finite": [True, False, True]}, {"finite"}),
        ({"norm": [4, np.nan, 4]}, {"relative_norm"}),
        ({"norm": [4, 1, 4]}, {"relative_norm"}),
        ({"norm": [4, 4, 5], "width": [16, 16, 25]}, {"widths"}),
        ({"key": ["a", None, "b"]}, {"key"}),
    ],
)
def test_each_fault_of_embeddings_fails_alone(changes, failing):
    result = check_embeddings(parts(stats(**changes)))
    assert set(result.table[~result.table["success"]]["column"]) == failing
    assert len(result.failures) == 1


def test_no_embeddings_fail():
    assert not check_embeddings(parts(stats()[:0])).success


def test_great_expectations_is_asked_to_tell_nobody():
    source = expectations._Suites()._frames.data_asset.datasource
    assert source._data_context.config.analytics_enabled is False
