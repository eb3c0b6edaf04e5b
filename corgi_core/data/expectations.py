"""What must hold of gated data and of embeddings, as Great Expectations suites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from corgi_core.data.quality import MAX_CAPTION

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation


@dataclass(frozen=True)
class SuiteResult:
    """The verdict on a frame. `table`: expectation, column, success, observed; one row each."""

    success: bool
    table: pd.DataFrame
    failures: list[str]  # one readable line for each expectation that does not hold


def check_manifest(manifest: pd.DataFrame) -> SuiteResult:
    """The manifest of a gated dataset: whole rows, both splits, and nothing that is in both."""
    expect = _expectations()
    lengths = manifest["captions"].map(lambda captions: [len(c) for c in captions or ()])
    frame = manifest.drop(columns="captions").assign(
        groups_in_both_splits=manifest["group"].where(_in_both_splits(manifest, "group")),
        images_in_both_splits=manifest["key"].where(_in_both_splits(manifest, "sha256")),
        shortest_caption=lengths.map(lambda n: min(n, default=np.nan)),
        longest_caption=lengths.map(lambda n: max(n, default=np.nan)),
    )
    whole = ["key", "shard", "source", "group"]
    if manifest["width"].notna().any():  # precomputed embeddings have no pixels
        whole += ["width", "height"]
    return _validate(
        frame,
        [
            expect.ExpectTableRowCountToBeBetween(min_value=2),
            *(expect.ExpectColumnValuesToNotBeNull(column=column) for column in whole),
            expect.ExpectColumnValuesToBeUnique(column="key"),
            expect.ExpectColumnValuesToMatchRegex(column="sha256", regex="^[0-9a-f]{64}$"),
            expect.ExpectColumnValuesToBeUnique(column="sha256"),
            expect.ExpectColumnValuesToBeBetween(column="width", min_value=1),
            expect.ExpectColumnValuesToBeBetween(column="height", min_value=1),
            expect.ExpectColumnDistinctValuesToEqualSet(
                column="split", value_set=["train", "test"]
            ),
            expect.ExpectColumnValuesToBeNull(column="groups_in_both_splits"),
            expect.ExpectColumnValuesToBeNull(column="images_in_both_splits"),
            expect.ExpectColumnValuesToBeBetween(column="shortest_caption", min_value=1),
            expect.ExpectColumnValuesToBeBetween(column="longest_caption", max_value=MAX_CAPTION),
        ],
    )


def _in_both_splits(manifest: pd.DataFrame, column: str) -> pd.Series[bool]:
    return manifest.groupby(column)["split"].transform("nunique") > 1


def check_embeddings(stats: pd.DataFrame) -> SuiteResult:
    """Embeddings by their `stats` (key, norm, finite, width): finite, of one width and scale.

    Blocks are scaled to norm √width each, so whole embeddings have norm √width, to float16.
    """
    expect = _expectations()
    frame = stats.assign(relative_norm=stats["norm"] / np.sqrt(stats["width"]))
    return _validate(
        frame,
        [
            expect.ExpectTableRowCountToBeBetween(min_value=1),
            expect.ExpectColumnValuesToNotBeNull(column="key"),
            expect.ExpectColumnValuesToBeInSet(column="finite", value_set=[True]),
            expect.ExpectColumnUniqueValueCountToBeBetween(
                column="width", min_value=1, max_value=1
            ),
            expect.ExpectColumnValuesToNotBeNull(column="relative_norm"),
            expect.ExpectColumnValuesToBeBetween(
                column="relative_norm", min_value=0.99, max_value=1.01
            ),
        ],
    )


def _expectations() -> Any:
    import great_expectations.expectations

    return great_expectations.expectations


def _validate(frame: pd.DataFrame, expectations: list[Expectation]) -> SuiteResult:
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(enable=False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("frames").add_dataframe_asset("frame")
    definition = asset.add_batch_definition_whole_dataframe("whole")
    batch = definition.get_batch(batch_parameters={"dataframe": frame})
    suite = gx.ExpectationSuite(name="suite", expectations=expectations)
    results = batch.validate(suite, result_format="SUMMARY").results
    table = pd.DataFrame([_row(result) for result in results])
    table = table.sort_values(["column", "expectation"], ignore_index=True)
    failures = [
        f"{row['column'] or 'table'}: {row['expectation'].replace('_', ' ')}, but {row['observed']}"
        for row in table[~table["success"]].to_dict("records")
    ]
    return SuiteResult(not failures, table, failures)


def _row(result: Any) -> dict[str, Any]:
    """One row of `SuiteResult.table`."""
    config = result.expectation_config
    return {
        "expectation": config.type.removeprefix("expect_"),
        "column": config.kwargs.get("column", ""),
        "success": bool(result.success),
        "observed": _observed(result.result) if result.result else str(result.exception_info),
    }


def _observed(found: dict[str, Any]) -> str:
    """A value, or how many rows (or values of a set) are unexpected or missing, and the first."""
    faults = []
    for kind in ("unexpected", "missing"):
        if count := found.get(f"{kind}_count"):
            some = ", ".join(map(str, found.get(f"partial_{kind}_list", [])[:5]))
            faults.append(f"{count} {kind}" + (f": {some}" if some else ""))
    return "; ".join(faults) or str(found.get("observed_value") or "all as expected")
