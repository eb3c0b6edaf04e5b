"""A failing check really blocks: in Dagster's own runs, and when a workspace is refreshed."""

from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from upath import UPath

from assets.checks import manifest_meets_expectations
from corgi_core.data.dataset import Dataset
from orchestration.resources.artifacts import Dataset as DatasetType
from orchestration.resources.io_managers import ArtifactIOManager
from tests.helpers.small import PNGS, write_images
from tests.helpers.whole import manifest_of

DOWNSTREAM: list[str] = []


def graph_of(folder: Path, *, overlapping: bool) -> list[object]:
    """`images` with the real check, and something that is made from them."""

    @dg.asset
    def images() -> dg.MaterializeResult[DatasetType]:
        groups = ["same" if overlapping else f"group {n}" for n in range(len(PNGS))]
        splits = ["test", "test", "validation", *["train"] * (len(PNGS) - 3)]
        return dg.MaterializeResult(value=write_images(UPath(folder), groups, splits))

    @dg.asset
    def pixels(images: DatasetType) -> None:
        DOWNSTREAM.append(images.digest)

    return [images, pixels, manifest_meets_expectations]


def materialize(tmp_path: Path, *, overlapping: bool) -> dg.ExecuteInProcessResult:
    DOWNSTREAM.clear()
    return dg.materialize(
        graph_of(tmp_path / "data", overlapping=overlapping),
        resources={"io_manager": ArtifactIOManager(UPath(tmp_path / "storage"))},
        raise_on_error=False,
    )


def test_sound_data_pass(tmp_path: Path) -> None:
    result = materialize(tmp_path, overlapping=False)
    assert result.success
    assert len(DOWNSTREAM) == 1


def test_overlap_of_train_and_test_blocks_what_is_downstream(tmp_path: Path) -> None:
    result = materialize(tmp_path, overlapping=True)
    assert not result.success
    assert DOWNSTREAM == []
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert "two_splits" in (evaluation.description or "")
    assert manifest_of(Dataset.load(UPath(tmp_path / "storage" / "images")))["group"].nunique() == 1


def test_a_broken_embedding_fails_the_check() -> None:
    from corgi_core.data.expectations import check_embeddings

    sound = pd.DataFrame({"key": list("abc"), "norm": [4.0] * 3, "finite": True, "width": 16})
    assert check_embeddings([sound]).success
    for column, values in (
        ("finite", [True, False, True]),
        ("norm", [4.0, 0.0, 4.0]),
        ("norm", [4.0, float("nan"), 4.0]),
        ("width", [16, 8, 16]),
    ):
        assert not check_embeddings([sound.assign(**{column: values})]).success, (column, values)


@pytest.mark.parametrize("array", ["image", "text"])
def test_the_statistics_tell_what_is_wrong_with_a_row(tmp_path: Path, array: str) -> None:
    import numpy as np

    from corgi_core.data.arrays import compute_missing
    from corgi_core.data.expectations import embedding_statistics

    images = write_images(UPath(tmp_path / "d"), list("abcdef"), ["train"] * 6)
    rows = np.full((6, 4), 2, np.float16)
    rows[3, 1] = np.nan
    store = compute_missing(
        UPath(tmp_path / "s"),
        images,
        {},
        lambda shard: {"keys": images.rows(shard)["key"].to_numpy(str), array: rows},
        "x",
    )
    statistics = pd.concat(embedding_statistics(store, array), ignore_index=True)
    assert statistics["finite"].tolist() == [True] * 3 + [False] + [True] * 2
    assert statistics["norm"].drop(3).tolist() == [4.0] * 5
